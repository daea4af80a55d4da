"""The harness of eval and tune: measures, statistics, controls and views of images."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image

import sts_cli
from sts_cli.answering.request import OFF, Request
from sts_cli.evaluation.conditions import Condition, average, controls, strongest
from sts_cli.evaluation.exam import MOST, answers, portions
from sts_cli.evaluation.metrics import METRICS, similarity
from sts_cli.evaluation.views import another, none
from sts_cli.inputs.images import Prepared
from sts_cli.profile import Cut, Profile
from sts_cli.profile_files import load_profile
from sts_cli.pruning import Candidates
from sts_cli.pruning.pooling import Pooling
from sts_cli.records import Item, Problem
from sts_cli.report.intervals import lower_bound, sign_test, wilson


@pytest.mark.parametrize(
    ("metric", "answer", "accepted", "score"),
    [
        ("exact", "Open.", ["open"], 1),
        ("exact", "it says open", ["open"], 0),
        ("contains", "It says: OPEN.", ["open"], 1),
        ("contains", "reopened", ["open"], 0),
        ("contains", "a red star on a sign", ["blue star", "red star"], 1),
        ("vqa", "two", ["2"], 1),
        ("vqa", "The dog!", ["a dog"], 1),
        ("vqa", "cat", ["dog"] * 10, 0),
        ("vqa", "dog", ["dog"] * 4 + ["cat"] * 6, 1),
        ("vqa", "dog", ["dog"] * 2 + ["cat"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),  # 0.6
        ("anls", "hello", ["hallo"], 0.8),
        ("anls", "hello", ["world", "HELLO"], 1),
        ("anls", "abc", ["xyz"], 0),
        ("f1", "a red star", ["a blue star", "star"], 2 / 3),
    ],
)
def test_measures_on_hand_made_answers(metric: str, answer: str, accepted: list[str], score: float):
    assert METRICS[metric](answer, accepted) == pytest.approx(score)


def test_similarity_counts_the_fewest_changes():
    def distance(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return distance(a[1:], b[1:])
        return 1 + min(distance(a[1:], b), distance(a, b[1:]), distance(a[1:], b[1:]))

    texts = ["".join(letters) for n in range(4) for letters in product("ab", repeat=n)]
    for a, b in product(texts, repeat=2):
        assert similarity(a, b) == pytest.approx(1 - distance(a, b) / max(1, len(a), len(b)))
    assert similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)


def test_the_sign_test_is_the_binomial_of_the_pairs_that_differ():
    assert sign_test([1, 1, 0], [1, 1, 0]) == 1
    assert sign_test([1] * 5, [0] * 5) == pytest.approx(2 / 32)
    assert sign_test([1] * 9 + [0] * 2, [0] * 9 + [1] * 2) == pytest.approx(2 * 67 / 2048)
    assert sign_test([1.0] * 3000, [0.5] * 3000) == 0  # and does not overflow


def test_the_lower_bound_is_what_so_many_right_answers_prove():
    assert lower_bound(0, 0) == lower_bound(0, 10) == 0
    assert lower_bound(299, 299) == pytest.approx(0.05 ** (1 / 299), abs=1e-6)
    assert lower_bound(298, 298) < 0.99 < lower_bound(299, 299)
    bound = lower_bound(45, 50)
    tail = sum(math.comb(50, k) * bound**k * (1 - bound) ** (50 - k) for k in range(45, 51))
    assert tail == pytest.approx(0.05, abs=1e-6)
    assert 0.98 < lower_bound(99_000, 100_000) < 0.99


def test_the_interval_of_scores_between_right_and_wrong():
    low, high = wilson(7.5, 10)
    assert wilson(7, 10)[0] < low < 0.75 < high < wilson(8, 10)[1]


def test_controls_have_the_average_of_the_profile_that_they_match():
    plans = [OFF, load_profile("balanced"), load_profile("extreme")]
    assert strongest(plans) == [plans[2]] and strongest([OFF]) == []
    assert average(plans[1]) == pytest.approx(128 / 576, abs=0.002)
    assert average(Profile("x", cuts=(Cut("grid", 100), Cut("grid", 20, 0.5)))) == 60
    found = controls(plans, plans[1:])
    assert len(found) == 2 * 4 + 2
    assert all(one.control for one in found)
    grids = [one.profile.cuts for one in found if one.name.startswith("grid")]
    assert [cut.keep for (cut,) in grids] == [average(plan) for plan in plans[1:]]
    assert [one.view for one in controls([OFF], [])] == ["another", "none"]


def question(number: int, *colors: str) -> Prepared:
    images = tuple(Image.new("RGB", (40, 30), color) for color in colors)
    return Prepared(Item(str(number), colors, "what color?"), images, colors, 0.0)


def test_another_image_is_never_the_questions_own():
    asked = [question(1, "red"), question(2, "red"), question(3, "blue", "red"), question(4)]
    found = another(asked)
    assert [one.digests for one in found[:2]] == [("grey (40, 30)",)] * 2  # both others hold red
    assert found[2].digests == ("grey (40, 30)",) * 2
    found = another([*asked, question(5, "green")])
    assert [one.digests for one in found] == [("green",)] * 3 + [(), ("red",)]


def test_no_image_keeps_the_question_and_its_problem():
    broken = Prepared(Item("2", problem=Problem("image_missing", "gone")), (), (), 0.0)
    found = none([question(1, "red"), broken])
    assert found[0].item.question == "what color?" and found[0].item.images == found[0].images == ()
    assert found[1].item.problem == broken.item.problem


def test_portions_are_small_enough_to_hold():
    asked = [question(n, "red") for n in range(2 * MOST + 1)]
    assert [len(part) for part in portions(iter(asked))] == [MOST, MOST, 1]
    large = Image.new("RGB", (8000, 6000))  # 144 MB: two of them are more than may be held
    asked = [Prepared(Item(str(n)), (large,), (str(n // 2),), 0.0) for n in range(4)]
    assert [len(part) for part in portions(iter(asked))] == [2, 2]


def test_pooling_is_the_mean_of_what_is_nearest():
    grid = torch.tensor([[r, c] for r in (0.25, 0.75) for c in (0.125, 0.375, 0.625, 0.875)])
    features = torch.arange(8.0)[:, None]
    look = Candidates(features, grid, torch.zeros(8, dtype=torch.long), torch.ones(8))
    cutting = Pooling().cut(look, 2)
    left, right = cutting.keep.tolist()
    assert left in (0, 1, 4, 5) and right in (2, 3, 6, 7)
    assert cutting.into is not None
    assert cutting.into.tolist() == [left, left, right, right] * 2
    twice = Candidates(features, grid, torch.tensor([0] * 4 + [1] * 4), torch.ones(8))
    into = Pooling().cut(twice, 4).into
    assert into is not None and (into < 4).tolist() == [True] * 4 + [False] * 4


def test_conditions_see_their_view_and_answers_keep_their_order(tiny_checkpoint: Path):
    """Each answer is that of the same profile alone on the same view."""
    vlm = sts_cli.load(str(tiny_checkpoint), dtype="float32", backend="torch")
    image = Image.effect_noise((60, 40), 90).convert("RGB")
    images = [image.rotate(90 * n) for n in range(3)]
    asked = [
        Prepared(Item(str(n), ("i",), f"what {n}?"), (images[n % 3],), (str(n % 3),), 0.0)
        for n in range(5)
    ]
    plan = Profile("grid", cuts=(Cut("grid", 8),))
    conditions = [
        Condition(OFF),
        Condition(Profile("no image"), "none"),
        Condition(plan),
        Condition(Profile("another image"), "another"),
    ]
    request = Request((OFF,), max_new_tokens=6)
    found = list(answers(vlm, iter(asked), conditions, request))
    assert [[answer.item.id for answer in row] for row in found] == [[str(n)] * 4 for n in range(5)]
    names = ["off", "no image", "grid", "another image"]
    assert all([answer.profile for answer in row] == names for row in found)

    def alone(ready: Prepared, profile: Profile) -> str | None:
        (answer,) = vlm.answers([ready], Request((profile,), max_new_tokens=6))
        return answer.text

    for number, row in enumerate(found):
        one = asked[number]
        blind = Prepared(Item("x", (), one.item.question), (), (), 0.0)
        other = asked[(number + 1) % 5] if number != 4 else asked[0]
        assert (number + 1) % 3 == int(other.digests[0]) or number == 4
        swapped = Prepared(one.item, other.images, other.digests, 0.0)
        wanted = [alone(one, OFF), alone(blind, OFF), alone(one, plan), alone(swapped, OFF)]
        assert [answer.text for answer in row] == wanted
        assert [answer.tokens.visual for answer in row if answer.tokens] == [64, 0, 64, 64]
