"""sts tune: the search, its statistics, and the profile that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from PIL import Image
from running import sts

from sts_cli.cli.tune import shortfall
from sts_cli.evaluation.shapes import AVERAGES, SHAPES
from sts_cli.evaluation.table import Tally
from sts_cli.evaluation.tune import (
    Trial,
    Tuned,
    best_of_each,
    cascading,
    enough,
    possible,
    searched,
)
from sts_cli.profile import Cut, Profile
from sts_cli.profile_files import load_profile, parse, shipped
from sts_cli.profile_files.writing import as_yaml

Questions = Callable[[int], Path]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("average", AVERAGES)
def test_each_shape_spends_the_average_it_is_given(shape, average: float):
    profile = shape.profile(average)
    tokens = profile.planned(10_000, 32)
    assert tokens == pytest.approx(10_000 * average, rel=0.01)
    first, *second = profile.cuts
    assert all(cut.keep <= first.keep <= 1 for cut in second)


def trial(average: float, agreed: int, asked: int, similarity: float = 0.0) -> Trial:
    agree = [True] * agreed + [False] * (asked - agreed)
    tally = Tally(agree=agree, tokens=[9.0], prefill=[2.0], total=[1.5])
    plan = Profile(f"{average}", cuts=(Cut("repulsion", average),))
    certainties = tuple(1 - 0.01 * number for number in range(asked))
    return Trial(plan, average, tally, similarity, certainties)


def test_the_best_is_the_last_before_the_first_that_fails():
    ladder = (trial(0.5, 100, 100), trial(0.3, 99, 100), trial(0.2, 80, 100), trial(0.1, 100, 100))
    found = Tuned(0.95, 60, ladder, 0, None)
    assert found.best is ladder[1] is found.chosen
    none = Tuned(0.95, 60, ladder[2:], 0, None)
    assert none.best is None and none.chosen is ladder[3]  # proves the most
    assert Tuned(0.95, 60, (ladder[0], ladder[3]), 0, None).best is ladder[3]


def test_a_lucky_trial_behind_one_that_fails_is_not_proved():
    lucky = Tuned(0.9, 60, (trial(0.5, 90, 100), trial(0.3, 97, 100)), 0, None)
    assert lucky.best is None and lucky.chosen is lucky.trials[1]
    assert "this may be chance. Give more questions." in shortfall(lucky)
    none = Tuned(0.9, 60, (trial(0.5, 90, 100),), 0, None)
    assert shortfall(none).startswith("no profile keeps 90.0%. The safest proves 83.6%")


def test_each_budget_is_spent_in_the_way_that_agrees_most():
    trials = [trial(0.1, 5, 9, 7.0), trial(0.1, 5, 9, 8.0), trial(0.3, 4, 9), trial(0.3, 6, 9)]
    assert best_of_each(trials) == [trials[3], trials[1]]
    assert possible(trial(0.1, 18, 20), 0.97) and not possible(trial(0.1, 12, 20), 0.97)


def test_the_questions_that_are_missing():
    assert [searched(n) for n in (1, 3, 50, 1000)] == [0, 1, 17, 60]
    assert enough(0.99) == 299 + 60
    assert enough(0.9) == 43 and 43 - searched(43) == 29  # 0.9 ** 29 < 0.05
    found = Tuned(0.99, 17, (trial(0.5, 33, 33),), 0, None)
    assert found.best is None and found.missing == 359 - 50
    assert Tuned(0.9, 17, (trial(0.5, 33, 33),), 0, None).missing == 0


def test_the_promise_is_kept_as_often_as_it_says():
    """A simulation of the test in fixed order: true agreement falls along the ladder."""
    random, broken = Random(2), 0
    truth = (0.99, 0.97, 0.95, 0.93, 0.9)
    for _ in range(1000):
        drawn = [sum(random.random() < share for _ in range(200)) for share in truth]
        ladder = tuple(trial(s, n, 200) for s, n in zip((5, 4, 3, 2, 1), drawn, strict=True))
        best = Tuned(0.94, 60, ladder, 0, None).best
        broken += best is not None and best.average <= 2  # 0.93 or 0.9
    assert broken <= 65  # of 1000: 5%, and three standard errors


def test_a_cascade_asks_again_below_the_certainty_that_its_trial_calls_for():
    assert cascading(trial(0.1, 20, 20), 0.95).escalate is None
    profile = cascading(trial(0.1, 16, 20), 0.9)  # at 95%, one of the four may stay
    assert profile.escalate is not None and profile.escalate.to == load_profile("off")
    assert profile.escalate.below == pytest.approx(1 - 0.01 * 16.5)
    assert parse(as_yaml(profile), profile.name, "again.yaml") == profile


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_profile_is_written_as_it_is_read(name: str):
    profile = load_profile(name)
    assert parse(as_yaml(profile), name, "again.yaml") == profile


def test_general_cuts_and_settings_are_written_as_they_are_read():
    text = (
        "cuts: [{method: repulsion, keep: 0.5, spatial: 2}, {method: relevance, keep: 0.3, "
        "depth: 0.25, rows: last}, {method: random, keep: 9, depth: 0.5}]\n"
        "quantize: int8\nbackend: torch\nbatch_size: 4\nmax_new_tokens: 9\n"
    )
    profile = parse(text, "mine", "mine.yaml")
    assert parse(as_yaml(profile), "mine", "again.yaml") == profile


@pytest.fixture
def questions(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Questions:
    """Writes a question file of n rows about one picture."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((60, 40), 90).save("a.png")

    def file(count: int, image: str = "a.png") -> Path:
        rows = ({"image": image, "question": f"what {n}?"} for n in range(count))
        Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "q.jsonl"

    return file


def tuned(*arguments: object):
    return sts("tune", *arguments, "--max-new-tokens", "1")


def test_tune_writes_a_profile_with_its_evidence(questions: Questions):
    asked = (questions(60), "--keep-agreement", "0.5", "--out", "mine.yaml")
    done = tuned(*asked, "--html", "front.html")
    assert done.code in (0, 3), done.err
    profile = load_profile("mine.yaml")
    assert profile.cuts and "of 40 unseen answers agree with off" in profile.about
    assert "Questions: q.jsonl." in profile.about
    assert profile.about.startswith("Not proved: ") == (done.code == 3)
    assert "40 unseen questions" in done.out
    page = Path("front.html").read_text()
    assert "<svg" in page and "Agreement against speed" in page
    again = tuned(questions(60), "--out", "mine.yaml")
    assert again.code == 2 and "mine.yaml exists; give another name, or --force" in again.err
    used = sts("ask", "a.png", "what?", "--profile", "mine.yaml", "--max-new-tokens", "1")
    assert used.code == 0, used.err


def test_tune_writes_a_cascade(questions: Questions):
    done = tuned(questions(30), "--keep-agreement", "0.8", "--cascade", "--out", "mine.yaml")
    assert done.code in (0, 3), done.err
    assert "to off" in done.out
    profile = load_profile("mine.yaml")
    used = sts("ask", "a.png", "what?", "--profile", "mine.yaml", "--max-new-tokens", "1")
    assert profile.cuts and used.code == 0, used.err


def test_tune_says_how_many_questions_are_missing(questions: Questions):
    done = tuned(questions(6), "--keep-agreement", "0.99")
    assert done.code == 3
    assert "cannot be proved by 4 unseen questions, even if all answers agree. Give 353" in done.err


@pytest.mark.parametrize(
    ("count", "image", "arguments", "sentence"),
    [
        (1, "a.png", (), "Questions: 1. Some are for the search and others for the proof; give"),
        (6, "gone.png", (), "None of 2 questions could be answered; the first: image_missing: No"),
        (6, "a.png", ("--out", "mine.txt"), "--out mine.txt: the name must end in .yaml."),
        (6, "a.png", ("--keep-agreement", "1"), "0.999"),
    ],
)
def test_tune_refuses_what_cannot_be(questions: Questions, count, image, arguments, sentence):
    done = tuned(questions(count, image), *arguments)
    assert (done.code, done.out) == (2, "")
    assert sentence in " ".join(done.err.replace("│", " ").split())
    assert not Path("tuned.yaml").exists()
