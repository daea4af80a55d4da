"""Accuracy and agreement: the measures, the table, and the command on a real checkpoint."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from PIL import Image
from running import Done, sts

from sts_cli.answering.agreement import exact_match, normalised, same, token_f1
from sts_cli.cli.eval_page import row_of
from sts_cli.cli.eval_table import p_of
from sts_cli.cli.plans import shared_by
from sts_cli.errors import ProfileError
from sts_cli.evaluation.conditions import Condition
from sts_cli.evaluation.table import Results
from sts_cli.profile import Profile
from sts_cli.records import Answer, Item, Problem
from sts_cli.report.evaluation import line_of
from sts_cli.report.intervals import median_interval, speedups, wilson
from sts_cli.scenes.drawing import draw
from sts_cli.scenes.questions import KINDS
from sts_cli.scenes.suite import DEVELOPMENT, SETS, suite

Questions = Callable[..., Path]


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("OPEN", "open.", True),
        (" a  red   star ", "a red star", True),
        ('"OPEN"', "OPEN", True),
        ("OPEN", "OPENS", False),
        ("", "", True),
        ("3.5", "35", False),
    ],
)
def test_answers_are_the_same_but_for_case_space_and_outer_punctuation(a, b, equal):
    assert same(a, b) is equal


def test_exact_match_takes_any_accepted_answer():
    assert exact_match("Grey.", ("gray", "grey"))
    assert not exact_match("green", ("gray", "grey"))
    assert normalised("...") == ""


def test_token_f1_on_hand_made_cases():
    assert token_f1("a red star", "a red star") == 1.0
    assert token_f1("a red star", "a blue star") == pytest.approx(2 / 3)
    assert token_f1("yes", "no") == 0.0
    assert token_f1("", "") == 1.0
    assert token_f1("", "no") == 0.0


def test_wilson_interval_against_published_values():
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(20, 20)[1] == 1.0


def test_the_suite_asks_every_kind_equally_often_and_the_same_each_time():
    first, again = list(suite(3, 0.5)), list(suite(3, 0.5))
    kinds = [one.item.extra["kind"] for one in first]
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 3)
    assert [one.item for one in first] == [one.item for one in again]
    assert first[0].images[0].tobytes() == again[0].images[0].tobytes()
    assert {one.item.id for one in suite(3, 0.5, DEVELOPMENT)}.isdisjoint(
        one.item.id for one in first
    )


def test_the_suite_asks_only_the_kinds_that_are_wanted():
    asked = list(suite(3, 0.0, DEVELOPMENT, "shapes", ("shape", "color", "text")))
    kinds = [one.item.extra["kind"] for one in asked]
    assert (kinds.count("color"), kinds.count("shape"), len(kinds)) == (3, 3, 6)


@pytest.mark.parametrize("of", SETS)
def test_a_crowded_set_asks_about_one_of_many(of: str):
    asked = list(suite(3, 0.0, DEVELOPMENT, of))
    kinds = [one.item.extra["kind"] for one in asked]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(SETS[of].kinds, 3)
    least = {"sparse": 0, "signs": 6, "shapes": 10}[of]
    for one in asked:
        seed = int(one.digests[0].removeprefix(f"{of}-"))
        scene = draw(seed, 0.0, **SETS[of].drawn)
        assert scene.image.tobytes() == one.images[0].tobytes()
        assert len(scene.things) >= least
    others = {
        one.digests for name in SETS if name != of for one in suite(1, 0.0, DEVELOPMENT, name)
    }
    assert others.isdisjoint(one.digests for one in asked)


def test_the_precision_that_profiles_ask_for_is_one_for_all():
    plans = [Profile("off"), Profile("a", quantize="int8"), Profile("b", quantize="int8")]
    assert shared_by(plans, "quantize") == "int8"
    assert shared_by(plans[:1], "quantize") is None
    with pytest.raises(ProfileError, match="'b' asks for int8 and 'c' asks for int4, but all"):
        shared_by([*plans, Profile("c", quantize="int4")], "quantize")


def evaluated(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "sts_cli", "eval", *arguments, "--json", "-q"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_eval_of_a_question_file(tiny_checkpoint: Path, tmp_path: Path):
    Image.effect_noise((60, 40), 90).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "question": f"what {n}?", "answer": "x"} for n in range(3)]
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluated(
        *(str(file), "-m", str(tiny_checkpoint), "-p", "off,aggressive", "--max-new-tokens", "2")
    )
    off, pruned = (found["profiles"][name]["all"] for name in ("off", "aggressive"))
    assert off["n"] == pruned["n"] == 3
    assert off["agreement"] == 1.0
    assert off["tokens"] == 64 and pruned["tokens"] < 16


def test_eval_of_the_built_in_scenes(tiny_checkpoint: Path):
    found = evaluated(
        *("scenes", "--per-kind", "1", "-m", str(tiny_checkpoint)),
        *("-p", "off,random", "--max-new-tokens", "1"),
    )
    assert set(found["profiles"]["off"]) == {*KINDS, "all"}


def tell(*arguments: object) -> Done:
    return sts("eval", *arguments, "--max-new-tokens", "2", "-q")


@pytest.fixture
def questions(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Questions:
    """Writes a question file; the picture is a.png."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    Image.effect_noise((60, 40), 90).save(tmp_path / "a.png")

    def file(*rows: dict[str, str]) -> Path:
        path = tmp_path / "q.jsonl"
        path.write_text("".join(json.dumps({"image": "a.png", **row}) + "\n" for row in rows))
        return path

    return file


def test_eval_where_every_question_fails_says_so(questions: Questions):
    file = questions(*({"image": f"gone{n}.png", "question": "?"} for n in range(3)))
    sentence = (
        "sts: None of the 3 questions could be answered; the first: image_missing: No image "
        f"{file.parent / 'gone0.png'}.\n"
    )
    done = tell(file, "-p", "off,grid")
    assert (done.code, done.out, done.err) == (1, "", sentence)
    done = tell(file, "-p", "off,grid", "--json")
    assert (done.code, done.err) == (1, sentence)
    assert json.loads(done.out)["profiles"] == {} and json.loads(done.out)["failed"] == 3


def test_eval_counts_the_questions_that_fail_and_names_the_first(questions: Questions):
    file = questions({"question": "?", "answer": "x"}, {"image": "gone.png", "question": "?"})
    done = tell(file, "-p", "off")
    assert done.code == 1 and "exact" in done.out
    assert "1 of 2 questions have errors and are not counted; the first: image_miss" in done.err


def test_eval_without_truths_tells_agreement_only(questions: Questions):
    file = questions({"question": "1?"}, {"question": "2?", "kind": "two"})
    found = json.loads(tell(file, "-p", "off,random", "--json").out)["profiles"]["random"]
    for cell in found.values():
        empty = ("exact", "contains", "vqa", "anls", "f1", "low", "high", "p")
        assert [cell[name] for name in ("n", *empty)] == [0, *[None] * 8]
        assert 0 <= cell["agreement"] <= 1
    assert (found["all"]["questions"], found["two"]["questions"]) == (2, 1)
    done = sts("eval", file, "-p", "off,random", "--controls", "none", "--max-new-tokens", "2")
    assert done.code == 0
    assert "No question has a known answer: only agreement with 'off' is shown." in done.err
    assert done.out.splitlines()[0].split() == ["2", "questions,", "%", *COLUMNS]
    assert "agreement, %" in done.out and "exact" not in done.out


COLUMNS = ["same", "tokens", "prefill", "total"]


def test_eval_leaves_questions_without_truth_out_of_accuracy(questions: Questions):
    file = questions({"question": "1?", "answer": "x"}, {"question": "2?", "kind": "two"})
    done = sts("eval", file, "-p", "off", "--controls", "none", "--max-new-tokens", "2")
    told = "1 of 2 questions have no known answer; the measures of accuracy leave them out."
    assert done.code == 0 and told in done.err
    lines = [line.split() for line in done.out.splitlines() if line.strip()]
    assert ["off", "0.0", "0-79"] in [line[:3] for line in lines]
    assert lines[-1] == ["two", "1", "-"]


def test_eval_has_controls_with_as_many_tokens(questions: Questions, tmp_path: Path):
    file = questions({"question": "1?", "answer": "x"})
    found = json.loads(tell(file, "-p", "off,aggressive,extreme", "--json").out)
    assert list(found["profiles"]) == ["off", "aggressive", "extreme"]
    kept = {name: cells["all"]["tokens"] for name, cells in found["controls"].items()}
    assert kept == {
        "random 5.6%": 4,
        "grid 5.6%": 4,
        "pooling 5.6%": 4,
        "downsampling 5.6%": 64,  # this model enlarges them again
        "another image": 64,
        "no image": 0,
    }
    assert found["profiles"]["extreme"]["all"]["tokens"] == 3.7
    assert found["controls"]["no image"]["all"]["speedup"] is None
    every = tell(file, "-p", "off,aggressive,extreme", "--json", "--controls", "every")
    assert len(json.loads(every.out)["controls"]) == 10
    none = tell(file, "-p", "off,aggressive", "--json", "--controls", "none")
    assert json.loads(none.out)["controls"] == {}


def test_eval_writes_its_table(questions: Questions, tmp_path: Path):
    file = questions({"question": "1?", "answer": "x"}, {"question": "2?", "kind": "two"})
    arguments = (file, "-p", "off,grid", "--controls", "none", "--metric", "anls")
    for name in ("t.json", "t.csv"):
        assert tell(*arguments, "--out", tmp_path / name).code == 0
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["metric"] == "anls" and set(record["profiles"]) == {"off", "grid"}
    with (tmp_path / "t.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["condition"], row["kind"]) for row in rows] == [
        ("off", "all"),
        ("off", "two"),
        ("grid", "all"),
        ("grid", "two"),
    ]
    cell = record["profiles"]["grid"]["all"]
    assert float(rows[2]["tokens"]) == cell["tokens"] == 7
    assert rows[2]["left"] == "7" and cell["left"] == [7]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--metric", "exakt"),
            "exakt is unknown. Known: exact, contains, vqa, anls, f1.",
        ),
        (("--controls", "all"), "--controls all is unknown. Known: strongest, every, none."),
        (("--out", "t.txt"), "--out t.txt: the name must end in .csv, .json or .html."),
    ],
)
def test_eval_refuses_what_it_does_not_know(questions: Questions, arguments, sentence: str):
    done = tell(questions({"question": "1?"}), *arguments)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err


def test_eval_does_not_write_over_its_input(questions: Questions, tmp_path: Path):
    file = questions({"question": "1?"}).rename(tmp_path / "q.json")
    done = tell(file, "--out", file)
    assert done.code == 2 and "is the input; give another name" in done.err
    assert json.loads(file.read_text())["question"] == "1?"


@pytest.mark.parametrize("name", ["t.csv", "t.json", "t.CSV"])
def test_eval_replaces_its_own_tables_and_nothing_else(
    name: str, questions: Questions, tmp_path: Path
):
    file, out = questions({"question": "1?"}), tmp_path / name
    asked = (file, "-p", "off", "--controls", "none", "--out", out)
    for _ in range(2):
        assert tell(*asked).code == 0
    for foreign in (b"condition,mine\n", b'{"model": "mine"}', b"[]", b"\xff\x00"):
        out.write_bytes(foreign)
        done = tell(*asked)
        assert done.code == 2 and f"{name} exists and is no table of sts" in done.err
        assert out.read_bytes() == foreign


def test_a_small_p_is_spelled_the_same_everywhere():
    assert p_of({"p": 0.0009}, 1) == line_of({"name": "a", "p": 0.0009})[-1] == "<0.001"
    assert p_of({"p": 0.021}, 1) == line_of({"name": "a", "p": 0.021})[-1] == "0.021"


def test_profiles_of_one_file_name_are_told_apart(questions: Questions, tmp_path: Path):
    mine = [tmp_path / folder / "off.yaml" for folder in ("a", "b")]
    for number, path in enumerate(mine):
        path.parent.mkdir()
        path.write_text(f"structure: {{method: grid, keep: {8 + number}}}\n")
    file = questions({"question": "1?"})
    found = json.loads(tell(file, "-p", f"{mine[0]},off,{mine[1]},grid", "--json").out)["profiles"]
    assert list(found) == [str(mine[0]), "off", str(mine[1]), "grid"]
    assert [found[name]["all"]["tokens"] for name in list(found)[:3]] == [8, 64, 9]


def test_a_profile_twice_is_refused(questions: Questions):
    done = tell(questions({"question": "1?"}), "-p", "off,grid,off")
    assert (done.code, done.out) == (2, "")
    assert done.err == "sts: --profiles names 'off' 2 times; once is enough.\n"


def test_a_question_that_fails_under_one_profile_counts_under_none():
    item = Item("1", ("a.png",), "?", answers=("x",))
    results = Results([Condition(Profile("off")), Condition(Profile("grid"))])
    problem = Problem("out_of_memory", "No room.")
    results.add([Answer(item, "m", "off", text="x"), Answer(item, "m", "grid", problem=problem)])
    assert (results.figures(), results.failed, results.problem) == ({}, 1, problem)


def test_the_interval_of_a_median_holds_it_as_often_as_promised():
    assert median_interval([3.0]) == (3.0, 3.0)
    assert median_interval([1, 5, 2, 4, 3]) == (1, 5)  # too few: their range
    assert median_interval([1, 2, 3, 4, 5, 6]) == (1, 6)
    assert median_interval(range(1, 101)) == (40, 61)  # of a table of the sign test
    low, high = median_interval(range(1, 10_001))  # where 0.5**n is 0: nearly 1.96 * sqrt(n) / 2
    assert low == 4902 and high == 5099
    random = Random(1)
    held = 0
    for _ in range(2000):
        low, high = median_interval([random.expovariate(1) for _ in range(15)])
        held += low <= math.log(2) <= high
    assert 0.95 <= held / 2000 <= 0.98


def test_speed_ups_say_of_how_many_batches_they_are():
    assert speedups([(4.0, 2.0)]) == "speed-up, of one batch: prefill x4.00, total x2.00"
    assert speedups([(4.0, 2.0), (5.0, 3.0)]) == (
        "speed-up, median of 2 batches (range): prefill x4.50 (4.00 to 5.00), "
        "total x2.50 (2.00 to 3.00)"
    )
    assert "median of 6 batches (95% interval)" in speedups([(4.0, 2.0)] * 6)


def test_eval_writes_a_page_of_every_answer(questions: Questions, tmp_path: Path):
    rows = ({"question": f"is it {word}?", "answer": word, "kind": word} for word in ("x", "y"))
    file = questions(*rows, {"image": "gone.png", "question": "gone?"})
    done = tell(file, "-p", "off,grid", "--controls", "none", "--html", tmp_path / "r.html")
    assert done.code == 1 and "1 of 3 questions have errors" in done.err
    page = (tmp_path / "r.html").read_text()
    for text in ("is it x?", "is it y?", "gone?", "image_missing", "Accuracy is exact match."):
        assert text in page
    assert page.count("data:image/jpeg") + page.count("/9j/") >= 1
    (tmp_path / "mine.html").write_text("my page")
    done = tell(file, "-p", "off", "--out", tmp_path / "mine.html")
    assert done.code == 2 and "is no report of sts; give another name" in done.err


def test_rows_of_the_page_that_differ_have_the_tokens_that_were_kept(
    questions: Questions, tmp_path: Path
):
    """Without a truth, those whose texts differ; both are wrong where nobody says it."""
    truth = {"answer": "what nobody says"}
    file = questions({"question": "what?"}, {"question": "what?", **truth})
    done = tell(file, "-p", "off,gentle", "--controls", "none", "--html", tmp_path / "r.html")
    assert done.code == 0
    page = (tmp_path / "r.html").read_text()
    rows = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["rows"]
    assert [len({one["text"] for one in row["answers"]}) for row in rows] == [2, 2]
    assert [len(row["cells"]) for row in rows] == [1, 0]
    assert rows[0]["facts"] == ["kept by gentle: 64 -> 23 -> 19 visual tokens"]
    assert rows[1]["facts"] == []


def test_rows_of_the_page_differ_as_the_table_counts():
    def differs(truth: tuple[str, ...], *texts: str) -> bool:
        item = Item("1", ("a.png",), "?", answers=truth)
        names = ("off", "a", "other")
        answers = [Answer(item, "m", n, text=t) for n, t in zip(names, texts, strict=True)]
        return row_of(answers, "exact", {"off", "a"})["differs"]

    assert not differs((), "CAKE", '"cake!"', "no")  # the same but for case and punctuation
    assert differs((), "CAKE", "CARE", "CAKE")
    assert not differs(("x",), "CAKE", "CARE", "x")  # both are wrong; controls do not count
    assert differs(("x",), "X.", "CARE", "x")
