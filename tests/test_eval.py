"""Accuracy and agreement: the measures, the table, and the command on a real checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sts_cli.cli.eval import one_precision
from sts_cli.errors import ProfileError
from sts_cli.evaluation.metrics import exact_match, normalised, same, token_f1
from sts_cli.evaluation.table import wilson
from sts_cli.profile import Profile
from sts_cli.scenes.questions import KINDS
from sts_cli.scenes.suite import DEVELOPMENT, suite


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


def test_the_precision_that_profiles_ask_for_is_one_for_all():
    plans = [Profile("off"), Profile("a", quantize="int8"), Profile("b", quantize="int8")]
    assert one_precision(plans) == "int8"
    assert one_precision(plans[:1]) == "none"
    with pytest.raises(ProfileError, match="'b' asks for int8 and 'c' asks for int4, but all"):
        one_precision([*plans, Profile("c", quantize="int4")])


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
