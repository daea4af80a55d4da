"""Budgets that follow the image: a plain one stops early, a crowded one takes all it may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import sts

from sts_cli import pruning
from sts_cli.engine.choosing import exactly
from sts_cli.engine.choosing_images import following
from sts_cli.engine.needs import lacking
from sts_cli.errors import ProfileError
from sts_cli.evaluation.conditions import average
from sts_cli.families.places import raster
from sts_cli.profile import Cut, Energy, Left, Profile
from sts_cli.profile_files import parse
from sts_cli.profile_files.writing import as_yaml
from sts_cli.pruning import Candidates, Following
from sts_cli.pruning.repulsion import Repulsion
from sts_cli.pruning.star_pro import StarPro

FOLLOWERS = ("repulsion", "star_pro")
SQUARE = raster(8, 8)


def look(values: torch.Tensor) -> Candidates:
    """One image of 8 x 8 tokens."""
    return Candidates(values, SQUARE, torch.zeros(64, dtype=torch.long), torch.ones(64))


def kinds(number: int) -> torch.Tensor:
    """64 tokens of so many contents, equally often, each at a right angle to all others."""
    return torch.eye(64)[torch.arange(64) % number]


def noise(seed: int = 0, width: int = 16) -> torch.Tensor:
    return torch.randn(64, width, generator=torch.Generator().manual_seed(seed))


def count(method: Following, values: torch.Tensor, keep: Energy) -> int:
    return len(following(method, look(values), keep).keep)


@pytest.mark.parametrize("method", [StarPro(), StarPro(features="unit"), Repulsion(spatial=0)])
@pytest.mark.parametrize(
    ("contents", "keep", "tokens"),
    [
        # Each content is 1/8 of the energy: three quarters are 6 of 8, and 7/10 are 6, too.
        (8, Energy(0.75, 0.5), 6),
        (8, Energy(0.7, 0.5), 6),
        (8, Energy(0.76, 0.5), 7),
        (32, Energy(0.75, 0.5), 24),
        (1, Energy(0.99, 0.5), 1),  # plain: the first token is all there is
        (1, Energy(0.99, 0.5, 5), 5),
        (1, Energy(0.99, 0.5, 0.25), 16),
        (64, Energy(0.75, 0.5), 32),  # crowded: half of the energy fits under the bound
        (64, Energy(0.75, 20), 20),
        (8, Energy(1.0, 0.5), 32),  # all of the energy: the bound, whatever the image
        (1, Energy(1.0, 40), 40),
    ],
)
def test_a_budget_is_as_many_tokens_as_hold_the_energy(
    method: Following, contents: int, keep: Energy, tokens: int
):
    assert count(method, kinds(contents), keep) == tokens


def test_tokens_of_nothing_hold_all_there_is_at_once():
    for method in (StarPro(), Repulsion()):
        assert count(method, torch.zeros(64, 16), Energy(0.9, 0.5, 3)) == 3


@pytest.mark.parametrize("features", ["raw", "unit", "centred"])
def test_star_pro_leaves_what_is_orthogonal_to_its_choice(features: Any):
    values = noise() * torch.linspace(1, 3, 64)[:, None]
    seen = values.double()
    if features == "unit":
        seen = seen / seen.norm(dim=1, keepdim=True)
    if features == "centred":
        seen = seen - seen.mean(0)
    trail = StarPro(features=features).trail(look(values), 12)
    assert trail.left.tolist() == pytest.approx(outside(seen, trail.order), abs=1e-5)


def test_repulsion_leaves_what_is_orthogonal_to_its_choice():
    values = 5 * noise()
    trail = Repulsion().trail(look(values), 12)
    unit = values.double() / values.double().norm(dim=1, keepdim=True)
    assert trail.left.tolist() == pytest.approx(outside(unit, trail.order), abs=1e-5)


def outside(values: torch.Tensor, order: torch.Tensor) -> list[float]:
    """The share of the squares of `values` outside of the span of the first 1, 2, ... of `order`.

    By least squares, for each number anew.
    """
    found = []
    for number in range(1, len(order) + 1):
        rows = values[order[:number]]
        nearest = torch.linalg.lstsq(rows.T, values.T).solution
        found.append(float((values.T - rows.T @ nearest).square().sum() / values.square().sum()))
    return found


@pytest.mark.parametrize("name", FOLLOWERS)
@pytest.mark.parametrize("most", [1, 16, 17, 40, 64])
def test_a_smaller_choice_is_the_start_of_a_larger_one(name: str, most: int):
    """Also where rows are equal, or more than there are dimensions."""
    method = pruning.build(name, {})
    for values in (noise(), noise(width=64), kinds(8), torch.ones(64, 4)):
        trail = method.trail(look(values), most)
        assert len(set(trail.order.tolist())) == most == len(trail.left)
        assert (trail.left.diff() <= 1e-6).all() and (trail.left >= 0).all()
        for smaller in {1, most // 2, most} - {0, 64}:
            cut = method.cut(look(values), smaller).keep.tolist()
            assert cut == sorted(trail.order[:smaller].tolist())


def test_the_methods_that_follow_are_known():
    assert tuple(name for name in pruning.names() if pruning.follows(name)) == FOLLOWERS


@given(st.floats(0.01, 1), st.integers(1, 64), st.integers(1, 64), st.integers(0, 99))
def test_a_budget_lies_within_its_bounds(share: float, one: int, other: int, seed: int):
    low, high = sorted((one + 1, other + 1))
    method = StarPro()
    cutting = following(method, look(noise(seed)), Energy(share, high, low))
    assert min(low, 64) <= len(cutting.keep) <= min(high, 64)
    same = exactly(method, look(noise(seed)), len(cutting.keep))
    assert cutting.keep.tolist() == same.keep.tolist()


ENERGY = "{energy: 0.99, at_most: 0.25, at_least: 16}"
BOTH = f"""structure: {{method: repulsion, keep: {ENERGY}}}
semantics: {{method: relevance, depth: 0.25, keep: {{left: 0.5, at_least: 12}}}}
attention: proportional
"""


def test_a_rule_is_read_written_and_planned_with():
    profile = parse(BOTH, "mine", "mine.yaml")
    first, second = profile.cuts
    assert first.keep == Energy(0.99, 0.25, 16) and second.keep == Left(0.5, None, 12)
    assert parse(as_yaml(profile), "mine", "again.yaml") == profile
    assert profile.follows and not parse("structure: {method: grid, keep: 9}", "", "").follows
    # Planned is the most: 144 of 576, then half of them, after 8 of 32 layers.
    assert profile.budgets(576) == (144, 72)
    assert profile.planned(576, 32) == (8 * 144 + 24 * 72) / 32
    assert average(profile) == profile.planned(576, 32) / 576  # of the controls beside it
    assert profile.budgets(20) == (5, 5) and profile.budgets(400) == (100, 50)
    # What was left is counted as it is.
    assert profile.average(576, (30, 15), 32) == (8 * 30 + 24 * 15) / 32
    settings = json.loads(json.dumps(profile.settings()))
    assert [cut["keep"] for cut in settings["cuts"]] == [
        {"energy": 0.99, "at_most": 0.25, "at_least": 16},
        {"left": 0.5, "at_least": 12},
    ]


def test_settings_of_profiles_without_a_rule_are_as_they_were():
    cuts = (Cut("grid", 0.5), Cut("instruction", 9, 0.5, {"rows": "last"}))
    assert Profile("p", cuts=cuts).settings()["cuts"] == [
        {"method": "grid", "keep": 0.5, "depth": 0.0, "options": {}},
        {"method": "instruction", "keep": 9, "depth": 0.5, "options": {"rows": "last"}},
    ]


@pytest.mark.parametrize(
    ("keep", "before", "tokens"),
    [
        (Left(0.5), 31, 16),
        (Left(1.0), 31, 31),
        (Left(0.5, 10), 31, 10),
        (Left(0.5, 0.1), 31, 10),
        (Left(0.5, None, 20), 31, 20),
        (Left(0.5, None, 20), 18, 18),
        (Left(0.01), 31, 1),
    ],
)
def test_a_share_of_what_the_cut_before_left(keep: Left, before: int, tokens: int):
    assert keep.of(before, 100) == tokens


START = "structure: {method: repulsion, keep: "
LATER = f"{START}9}}\nsemantics: {{method: relevance, depth: 0.5,\n  keep: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (START + "{energy: 2, at_most: 9}}", "line 1: structure: keep: energy is 2. Give a share"),
        (START + "{energy: 0, at_most: 9}}", "energy is 0. Give a share above 0, at most 1."),
        (START + "{energy: yes, at_most: 9}}", "energy is True. Give a share"),
        (START + "{energy: .nan, at_most: 9}}", "energy is nan. Give a share"),
        (START + "{energy: 0.9}}", "line 1: structure: keep: at_most is missing. Give a share of"),
        (START + "{at_most: 9}}", "keep must look like {energy: 0.95, at_most: 0.25} or {left: 0."),
        (START + "{energy: 0.9, left: 1, at_most: 9}}", "keep must look like {energy: 0.95"),
        (
            START + "{enery: 0.9, at_most: 9}}",
            "unknown key 'enery'. Known: energy, left, at_",
        ),
        (START + "{enery: 0.9, at_most: 9}}", "Did you mean 'energy'?"),
        (START + "{energy: 0.9,\n  at_most: 0}}", "line 2: structure: keep: at_most is 0."),
        (START + "{energy: 0.9, at_most: 9, at_least: 10}}", "at_least is 10, more than at_most"),
        (START + "{left: 0.5}}", "structure: keep is a share of what the cut before left, and"),
        (
            "structure: {method: grid, keep: {energy: 0.9, at_most: 9}}",
            "grid cannot follow the image, since it does not say how much of it a choice leaves. "
            "Give a share or a number, or use repulsion or star_pro.",
        ),
        (
            LATER + "{energy: 0.9, at_most: 9}}",
            "line 3: semantics: keep: energy is counted before the first layer only.",
        ),
        (LATER + "{left: 1.5}}", "line 3: semantics: keep: left is 1.5. Give a share above 0"),
        (
            LATER + "{left: 1, at_least: 12}}",
            "semantics keeps {left: 1.0, at_least: 12}, more than",
        ),
        (
            START
            + "{energy: 0.9, at_most: 9}}\nsemantics: {method: relevance, depth: 1, keep: 10}",
            "semantics keeps 10, more than the {energy: 0.9, at_most: 9} of the cut before it",
        ),
        (
            START + "{energy: 0.9, at_most: 0.9}}\nescalate: {below: 0.5, to: gentle}",
            "'gentle' keeps 192 of 576 visual tokens on average, not more than the 518",
        ),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(text: str, message: str):
    with pytest.raises(ProfileError) as caught:
        parse(text, "mine", "mine.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("mine.yaml, line ")


@pytest.mark.parametrize(
    "cut", [Cut("grid", Energy(0.9, 9)), Cut("repulsion", Energy(0.9, 9), 0.5)]
)
def test_a_rule_made_in_python_is_refused_before_it_runs(cut: Cut):
    with pytest.raises(ProfileError, match="before the first layer that can follow the image"):
        lacking(Profile("mine", cuts=(cut,)), "a model", tiny.config("llava"))


def test_only_a_rule_that_can_drop_nothing_is_idle():
    def notes(*keeps: Any) -> list[str]:
        cuts = (Cut("repulsion", keeps[0]), *(Cut("relevance", one, 0.5) for one in keeps[1:]))
        return Profile("mine", cuts=cuts).idle(100)

    assert notes(Energy(0.9, 1.0)) == [] and notes(Energy(0.9, 0.5), 20) == []
    assert notes(Energy(0.9, 0.5), Left(0.5)) == []
    (note,) = notes(Energy(1.0, 100))
    assert "repulsion keeps {energy: 1.0, at_most: 100}, so it drops none of the 100" in note
    assert "at_least: 200}, so it drops none of the 100" in notes(Energy(0.9, 300, 200))[0]
    (note,) = notes(Energy(0.9, 0.5), Left(1.0))
    assert "relevance keeps {left: 1.0}, so it drops none of the 50 visual tokens" in note
    (note,) = notes(Energy(0.9, 0.5), 60)
    assert "relevance keeps 60, so it drops none of the 50" in note


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(BOTH)
    return path


def test_a_profile_that_follows_the_image_is_explained(mine: Path):
    shown = sts("profiles", "show", mine).out
    assert "keeps as many as hold 99% of the image's energy, 16 to 144: Tokens that" in shown
    assert "keeps 50% of what is left, at most 72: Tokens that" in shown
    assert "Average over all layers: at most 90.0 tokens, 15.6%." in shown


def test_rows_tell_what_was_kept_of_their_image(mine: Path, tmp_path: Path):
    """A plain picture, a sign, and the same in another order: each row as it is alone."""
    from PIL import Image

    plain = tmp_path / "plain.png"
    Image.new("RGB", (336, 336), "teal").save(plain)
    sign = Path(__file__).parents[1] / "samples" / "two-signs.jpg"
    rows = [
        {"id": str(number), "image": str(path), "question": question}
        for number, (path, question) in enumerate(
            [(plain, "what color is it?"), (sign, "what does the red sign say?"), (sign, "hm?")]
        )
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for backend in BACKENDS:
        settings = ("--profile", mine, "--backend", backend, "--max-new-tokens", 4)
        together = sts("batch", file, *settings).rows
        left = [row["tokens"]["left"] for row in together]
        assert left[0] == [16, 12] and left[1] == left[2] and 16 < left[1][0] < 144
        assert left[1][1] == (left[1][0] + 1) // 2
        assert [row["tokens"]["average"] for row in together] == [
            (2 * first + 6 * second) / 8 for first, second in left
        ]
        alone = [sts("ask", row["image"], row["question"], "--json", *settings) for row in rows]
        answers = [json.loads(one.out)["answer"] for one in alone]
        assert [row["answer"] for row in together] == answers
    dry = sts("batch", file, "--profile", mine, "--dry-run").out
    assert "mine keeps at most 270 (15.6%), on average over 8 layers" in dry


def backends() -> list[str]:
    try:
        import openvino  # noqa: F401
    except ImportError:
        return ["torch"]
    return ["torch", "openvino"]


BACKENDS = backends()


def test_several_images_of_a_question_have_each_its_own_number():
    from sts_cli.engine.choosing import choose_row
    from sts_cli.engine.choosing_images import Choices, choose_images
    from sts_cli.families.default import Encoded, Pixels, Prompt

    pixels = Pixels({}, "", 64, (8, 8))
    images = tuple(Encoded(kinds(number), SQUARE, (), pixels) for number in (4, 20))
    prompt = Prompt([], images)
    first, second = Cut("star_pro", Energy(0.75, 0.5)), Cut("divprune", Left(0.34), 0.5)
    chosen = choose_images(
        StarPro(), first, prompt, torch.empty(0), None, Choices(), proportional=False
    )
    assert chosen.counts == [3, 15]
    seen = Candidates(
        torch.cat([kinds(4)[:3], kinds(20)[:15]]),
        SQUARE[:18],
        torch.tensor([0] * 3 + [1] * 15),
        torch.ones(18),
    )
    later = choose_row(
        pruning.build("divprune", {}), second, seen, prompt, [3, 15], proportional=False
    )
    assert sum(later.counts) == 1 + 5 and later.counts[0] >= 1


def test_a_choice_is_remembered_by_its_rule():
    """The same image under another rule is chosen from anew."""
    from sts_cli.engine.choosing_images import Choices, choose_images
    from sts_cli.families.default import Encoded, Pixels, Prompt

    prompt = Prompt([], (Encoded(kinds(8), SQUARE, (), Pixels({}, "", 64, (8, 8))),))
    choices, found = Choices(), []
    for keep in (Energy(0.5, 0.5), Energy(0.75, 0.5), Energy(0.5, 0.5)):
        cut = Cut("repulsion", keep)
        row = choose_images(Repulsion(spatial=0), cut, prompt, torch.empty(0), None, choices, False)
        found.append(row.counts)
    assert found == [[4], [6], [4]]
