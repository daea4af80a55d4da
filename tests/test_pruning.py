"""Pruning methods: pure choices with known answers on hand-made cases."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from sts_cli import pruning
from sts_cli.decoding.attention import CHUNK_BYTES, attention_paid, watched_sdpa
from sts_cli.decoding.masks import attention_mask
from sts_cli.decoding.tokens import Keys, Tokens, text_tokens
from sts_cli.engine import choosing_images
from sts_cli.engine.choosing import joined, with_floors
from sts_cli.engine.choosing_images import Choices, choose_images, choose_together
from sts_cli.engine.sizes import log_sizes, merged
from sts_cli.errors import ProfileError
from sts_cli.families.default import Encoded, Pixels, Prompt
from sts_cli.families.places import raster
from sts_cli.profile import Cut
from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning import repulsion as stage_one
from sts_cli.pruning.grid import Grid
from sts_cli.pruning.instruction import Instruction, scores
from sts_cli.pruning.random import Random
from sts_cli.pruning.relevance import Relevance
from sts_cli.pruning.repulsion import (
    Repulsion,
    greedy,
    median,
    normalised,
    place_distances,
    potentials,
)

SQUARE = raster(8, 8)


def features(seed: int = 0, total: int = 64, width: int = 16) -> torch.Tensor:
    return torch.randn(total, width, generator=torch.Generator().manual_seed(seed))


def look(values: torch.Tensor, grid: torch.Tensor = SQUARE, **more: Any) -> Candidates:
    """One image's tokens, each of which stands for itself."""
    number = torch.zeros(len(values), dtype=torch.long)
    return Candidates(values, grid, number, torch.ones(len(values)), **more)


def chosen(method: pruning.Method, seen: Candidates, count: int) -> list[int]:
    return method.cut(seen, count).keep.tolist()


def test_repulsion_never_takes_a_twin_before_something_new():
    """Four contents, many copies each: where contents count more, four tokens show all four."""
    kinds = torch.eye(4).repeat(16, 1) + 0.001 * features(width=4)
    kept = chosen(Repulsion(spatial=0.25), look(kinds), 4)
    assert {index % 4 for index in kept} == {0, 1, 2, 3}


def test_repulsion_spreads_over_a_flat_image():
    """Where all contents are alike, only places repel: every quarter keeps its share."""
    flat = torch.ones(64, 16) + 1e-4 * features()
    kept = chosen(Repulsion(spatial=10.0), look(flat), 16)
    quarters = [(int(row > 0.5), int(column > 0.5)) for row, column in SQUARE[kept].tolist()]
    assert {quarters.count(quarter) for quarter in quarters} <= {3, 4, 5}
    assert len(set(quarters)) == 4


def test_repulsion_keeps_the_odd_one_out():
    same = torch.ones(64, 16) + 0.01 * features()
    same[37] = -1
    assert 37 in chosen(Repulsion(), look(same), 2)


def test_repulsion_chooses_for_several_images_in_one_loop_as_for_each_alone():
    looks = [look(features(seed)) for seed in range(3)] + [look(torch.ones(64, 16))]
    together = Repulsion().cuts(looks, 20)
    assert [one.keep.tolist() for one in together] == [
        chosen(Repulsion(), one, 20) for one in looks
    ]


@dataclass(frozen=True)
class InOneLoop:
    """The first tokens of every image; of no image alone."""

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "a test"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        raise AssertionError("asked for one image")

    def cuts(self, candidates: Sequence[Candidates], count: int) -> list[Cutting]:
        return [Cutting(torch.arange(count)) for _ in candidates]


def test_the_new_images_of_a_batch_share_a_loop(monkeypatch: pytest.MonkeyPatch):
    """Of each size one, at most as many as its memory allows; a known image is not asked for."""
    pixels = Pixels({}, "", 64, (8, 8))
    sizes = (64, 64, 16, 64)
    images = [
        Encoded(features(n, total), SQUARE[:total], (), pixels) for n, total in enumerate(sizes)
    ]
    cut, method, choices = Cut("repulsion", 8), InOneLoop(), Choices()
    prompts = [Prompt([], (image,)) for image in (*images, images[0])]
    monkeypatch.setattr(choosing_images, "LOOP_BYTES", 2 * 4 * 64**2)  # of two images
    choose_together(method, cut, prompts, choices, proportional=True)
    choose_together(method, cut, prompts, choices, proportional=True)
    for prompt in prompts:
        row = choose_images(method, cut, prompt, torch.empty(0), None, choices, proportional=True)
        assert row.counts == [8] and row.cutting.keep.tolist() == list(range(8))


def test_repulsion_minimises_the_energy_of_its_docstring_greedily():
    """Against the definition, pair by pair, with medians over all rows."""
    unit = torch.nn.functional.normalize(features(3).double(), dim=-1)
    content = 2 - 2 * unit @ unit.T
    place = ((SQUARE[:, None] - SQUARE[None]).double() ** 2).sum(-1) / 2
    energy = (content / content.median() + place / place.median() + 1e-3) ** -1.0
    first = int((content + 9 * torch.eye(64)).min(1).values.argmax())
    expected = [first]
    while len(expected) < 10:
        sums = energy[:, expected].sum(1)
        sums[expected] = torch.inf
        expected.append(int(sums.argmin()))
    assert chosen(Repulsion(), look(features(3)), 10) == sorted(expected)


def test_repulsion_scales_distances_in_place_by_their_own_median():
    """The medians of content and of place are far apart here: swapped, another choice."""
    near = torch.ones(64, 16) + 0.05 * features(4)
    unit = normalised(near)
    repel, _ = potentials(unit, SQUARE, 1.0, 2.0)
    content, place = (2 - 2 * unit @ unit.T).clamp(min=0), place_distances(SQUARE, SQUARE)
    joint = content / median(content) + place / median(place)
    torch.testing.assert_close(repel, 1 / (joint + 1e-3), rtol=1e-3, atol=1e-4)


def test_repulsion_made_in_parts_chooses_the_same(monkeypatch: pytest.MonkeyPatch):
    whole = chosen(Repulsion(), look(features(2)), 20)
    monkeypatch.setattr(stage_one, "CHUNK", 7)
    assert chosen(Repulsion(), look(features(2)), 20) == whole


def test_repulsion_holds_one_matrix(memory_peak: Any):
    """Four thousand tokens: one matrix of N x N in float32, and less than half of one beside."""
    total = 4096
    seen = look(features(total=total, width=8), raster(64, 64))
    matrix = 4 * total * total
    assert memory_peak(lambda: Repulsion().cut(seen, 8)) < 1.5 * matrix


@pytest.mark.parametrize("method", (Repulsion(), Random(), Grid()))
@pytest.mark.parametrize("count", (1, 2, 7, 16, 63))
def test_budgets_are_exact_and_indices_sorted(method: pruning.Method, count: int):
    kept = chosen(method, look(features(), seed=5), count)
    assert len(kept) == count
    assert kept == sorted(set(kept))
    assert kept[0] >= 0 and kept[-1] < 64


def test_repulsion_follows_its_tokens_when_they_are_reordered():
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    plain = chosen(Repulsion(), look(features(5)), 20)
    moved = chosen(Repulsion(), look(features(5)[order], SQUARE[order]), 20)
    assert sorted(order[moved].tolist()) == plain


@pytest.mark.parametrize("value", (0.0, 1.0))
def test_repulsion_survives_tokens_that_are_all_equal(value: float):
    assert len(set(chosen(Repulsion(), look(torch.full((64, 8), value)), 9))) == 9


def test_repulsion_does_the_same_in_bfloat16():
    half = features(7).bfloat16()
    assert chosen(Repulsion(), look(half), 16) == chosen(Repulsion(), look(half.float()), 16)


def test_instruction_takes_the_most_attended_and_the_first_of_equals():
    attention = torch.tensor([0.1, 0.4, 0.4, 0.05, 0.4])
    seen = look(features(total=5), SQUARE[:5], attention=attention)
    assert chosen(Instruction(), seen, 2) == [1, 2]
    assert chosen(Instruction(), seen, 4) == [0, 1, 2, 4]


def test_spread_shares_attention_with_neighbours_of_the_same_image():
    """Against the definition, pair by pair: two images of a row of four tokens each."""
    line = torch.tensor([[0.5, 0.125 * place] for place in (1, 3, 5, 7)]).repeat(2, 1)
    both = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    attention = torch.tensor([0.0, 0.5, 0.0, 0.0, 0.1, 0.05, 0.0, 0.0])
    seen = Candidates(features(total=8), line, both, torch.ones(8), attention)
    near = [math.exp(-((0.25 * steps) ** 2) / (2 * 0.2**2)) for steps in range(4)]
    expected = [0.5 * near[1], 0.5, 0.5 * near[1], 0.5 * near[2]]
    expected += [0.1 * near[place] + 0.05 * near[abs(place - 1)] for place in range(4)]
    torch.testing.assert_close(scores(seen, 0.2), torch.tensor(expected))
    assert chosen(Instruction(), seen, 3) == [1, 4, 5]
    assert chosen(Instruction(spread=0.2), seen, 3) == [0, 1, 2]
    lone = replace(seen, attention=torch.eye(8)[1])
    kept = [chosen(Relevance(weight=16, spread=spread), lone, 3) for spread in (0.2, 0.0)]
    assert kept[0] == [0, 1, 2] != kept[1]


def test_relevance_lies_between_repulsion_and_attention():
    attention = torch.rand(64, generator=torch.Generator().manual_seed(7))
    seen = look(features(), attention=attention)
    even = look(features(), attention=torch.full((64,), 0.5))
    best = set(chosen(Instruction(), seen, 16))
    kept = {w: set(chosen(Relevance(weight=w), seen, 16)) for w in (0.0, 0.25, 16.0)}
    repel, _ = potentials(normalised(features()), SQUARE, spatial=1.0, exponent=2.0)
    assert kept[0.0] == set(greedy([repel], attention.argmax().view(1), 16)[0].tolist())
    flat = [chosen(Relevance(weight=weight), even, 16) for weight in (16.0, 0.0)]
    assert flat[0] == flat[1]
    overlap = [len(kept[weight] & best) for weight in (0.0, 0.25, 16.0)]
    assert overlap[0] < overlap[1] < overlap[2] and overlap[2] >= 14


@pytest.mark.parametrize("method", (Instruction(), Relevance(), Random(), Grid(), Repulsion()))
def test_an_image_that_a_method_passes_over_keeps_its_floor(method: pruning.Method):
    """Two images side by side; all attention, and the denser half of the places, on the first."""
    both = torch.arange(64) // 32
    seen = Candidates(features(), SQUARE, both, torch.ones(64), torch.linspace(1, 0, 64), seed=3)
    for floors, count in (([2, 8], 10), ([1, 1], 2), ([3, 3], 30)):
        cutting, left = with_floors(method, seen, [32, 32], floors, count)
        assert left == both[cutting.keep].bincount(minlength=2).tolist()
        assert sum(left) == count and all(n >= floor for n, floor in zip(left, floors, strict=True))
        assert cutting.keep.tolist() == sorted(set(cutting.keep.tolist()))


def test_random_draws_by_image_and_by_draw():
    first = chosen(Random(), look(features(), seed=1), 16)
    assert first == chosen(Random(), look(features(9), seed=1), 16)
    assert first != chosen(Random(), look(features(), seed=2), 16)
    assert first != chosen(Random(draw=7), look(features(), seed=1), 16)


def test_grid_of_sixteen_is_every_second_row_and_column():
    rows = SQUARE[chosen(Grid(), look(features()), 16)]
    assert len(rows[:, 0].unique()) == 4
    assert len(rows[:, 1].unique()) == 4


@pytest.mark.parametrize("name", pruning.names())
def test_every_method_describes_itself(name: str):
    method = pruning.find(name)
    assert is_dataclass(method) and 20 < len(pruning.about(name)) < 100
    assert set(method.needs) <= set(pruning.NEEDS)
    for option, known in pruning.options_of(name).items():
        default = getattr(pruning.build(name, {}), option)
        if isinstance(known, pruning.Range):
            known = (default,) if known.low <= default <= known.high else ()
        words = (known.word,) if isinstance(known, pruning.File) else known
        assert default in words


TOY = '''
from dataclasses import dataclass
from typing import Annotated, ClassVar
from sts_cli.pruning import Cutting, Range

@dataclass(frozen=True)
class Corner:
    """Tokens from the start of the image on, the others merged into the last of them."""
    needs: ClassVar[tuple] = ()
    skip: Annotated[float, Range(0, 10)] = 0

    def cut(self, look, count):
        import torch
        keep = torch.arange(count) + int(self.skip)
        return Cutting(keep, torch.arange(len(look.features)).clamp(keep[0], keep[-1]))

@dataclass(frozen=True)
class Wishful:
    """Tokens that this version cannot show."""
    needs: ClassVar[tuple] = ("dreams",)

    def cut(self, look, count):
        raise NotImplementedError
'''


def test_another_package_brings_a_method(tmp_path: Path):
    """Built and installed as pip does it, then found, checked, and used to answer."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "corner_method.py").write_text(TOY)
    points = "corner = 'corner_method:Corner'\nwishful = 'corner_method:Wishful'\n"
    points += "grid = 'corner_method:Corner'\n"
    (source / "pyproject.toml").write_text(
        "[build-system]\nrequires = ['hatchling']\nbuild-backend = 'hatchling.build'\n"
        "[project]\nname = 'corner-method'\nversion = '1'\n"
        f"[project.entry-points.'sts.pruning']\n{points}"
        "[tool.hatch.build.targets.wheel]\ninclude = ['corner_method.py']\n"
    )
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    install = [sys.executable, "-m", "pip", "install", *options, "--target", str(site)]
    subprocess.run([*install, str(source)], check=True)
    profile = tmp_path / "corner.yaml"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}

    def run(text: str) -> subprocess.CompletedProcess[str]:
        profile.write_text(text)
        command = ["ask", "samples/sign.png", "what?", "--json", "--profile", str(profile)]
        return subprocess.run(
            [sys.executable, "-m", "sts_cli", *command],
            capture_output=True,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
        )

    done = run("structure: {method: corner, keep: 9, skip: 2}\nattention: proportional\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"]["left"] == [9]
    assert (
        "skip is 11. Give a number from 0 to 10."
        in run("structure: {method: corner, keep: 9, skip: 11}").stderr
    )
    assert (
        "needs dreams, which this version of sts does not provide"
        in run("structure: {method: wishful, keep: 9}").stderr
    )
    assert "has the name of a method of sts" in run("structure: {method: grid, keep: 9}").stderr


def test_an_unknown_method_is_named_with_those_that_are_known():
    with pytest.raises(ProfileError, match="No method 'gird'.*Did you mean 'grid'"):
        pruning.find("gird")


def keeping(*indices: int) -> Cutting:
    return Cutting(torch.tensor(indices))


def test_every_dropped_token_counts_for_one_that_is_left():
    keep = torch.arange(0, 64, 5)
    sizes = log_sizes(features(), SQUARE, torch.zeros(64), Cutting(keep)).exp()
    assert sizes.sum() == pytest.approx(64) and (sizes >= 1).all()
    again = torch.arange(0, 13, 2)  # a second cut: sizes add up
    left = log_sizes(features()[keep], SQUARE[keep], sizes.log(), Cutting(again)).exp()
    assert left.sum() == pytest.approx(64) and (left >= sizes[again] - 1e-3).all()


def test_a_token_stands_for_what_is_like_it_and_near():
    content = torch.eye(2).repeat_interleave(32, 0)  # 32 alike above, 32 below
    kept = keeping(3, 32, 63)  # above, and the two corners below
    sizes = log_sizes(content, SQUARE, torch.zeros(64), kept).exp()
    assert sizes.sum() == pytest.approx(64) and sizes[0] == pytest.approx(32)
    assert sizes.min() >= 14  # the corners share what is below


def test_merged_tokens_count_and_average_where_they_go():
    values = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    cutting = Cutting(torch.tensor([1, 3]), torch.tensor([1, 1, 3, 3]))
    size = torch.tensor([1.0, 3.0, 1.0, 1.0])
    assert merged(values, size, cutting)[:, 0].tolist() == [1.75, 6.0]
    assert log_sizes(values, SQUARE[:4], size.log(), cutting).exp().tolist() == [4.0, 2.0]
    both = joined([(torch.tensor([0, 1]), keeping(1)), (torch.tensor([2, 3]), keeping(0, 1))])
    assert both.keep.tolist() == [1, 2, 3] and both.into is None


def test_a_token_of_size_n_is_attended_to_as_n_equal_tokens():
    """The keys and values written out n times are the oracle, for answers and for scores."""
    made = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 6, 8, generator=made) for _ in range(3))
    times = torch.tensor([1, 3, 1, 5, 1, 1])
    module = torch.nn.Module()
    module.is_causal = True
    mask = attention_mask(*sequence(6, times.float().log()), None)
    record: list[Any] = []
    found, _ = watched_sdpa(module, query, key, value, mask, record=record)
    wide = torch.arange(6).repeat_interleave(times)  # [12]
    allowed = wide <= torch.arange(6)[:, None]
    many = (t.repeat_interleave(times, dim=2) for t in (key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(query, *many, attn_mask=allowed)
    torch.testing.assert_close(found, expected.transpose(1, 2))
    logits = query @ key.repeat_interleave(times, dim=2).mT / 8**0.5
    weights = logits.masked_fill(~allowed, -torch.inf).softmax(-1).mean((0, 1, 2))
    scores = torch.zeros(6).index_add(0, wide, weights)
    paid = attention_paid(record[0], torch.ones(1, 6, dtype=torch.bool))
    torch.testing.assert_close(paid[0], scores)


def sequence(length: int, log_size: torch.Tensor | None, total: int | None = None) -> Any:
    """The last `length` of `total` tokens without padding, and all as keys."""
    total = total or length
    tokens = text_tokens(torch.zeros(1, 1, 8), torch.zeros(1, 1))
    wide = {"hidden": torch.zeros(1, length, 8), "segment": torch.full((1, length), -1)}
    size = None if log_size is None else log_size[None]
    keys = Keys(torch.ones(1, total, dtype=torch.bool), False, size)
    return Tokens(**{**vars(tokens), **wide}), keys


def test_a_long_question_is_watched_in_bounded_memory(memory_peak: Any):
    """Its rows at once would take 300 MB for each of several copies."""
    made = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 4, 4400, 8, generator=made) for _ in range(2))
    rows = torch.ones((1, 4300), dtype=torch.bool)
    paid: list[torch.Tensor] = []
    peak = memory_peak(lambda: paid.append(attention_paid((query, key, None, None), rows)))
    assert peak < 5 * CHUNK_BYTES < 4 * 4 * 4300 * 4400 * 2
    logits = query[:, :, -2:] @ key.mT / 8**0.5
    place = torch.arange(4398, 4400)[:, None]
    alone = logits.masked_fill(torch.arange(4400) > place, -torch.inf).softmax(-1).mean((1, 2))
    last = attention_paid((query, key, None, None), rows[:, :2])
    torch.testing.assert_close(last, alone)
    assert paid[0].sum() == pytest.approx(1, abs=1e-3)


def test_sizes_reach_keys_behind_padding_and_in_a_window():
    """Five keys, a window of three, two tokens: the bias is cut to the last four keys."""
    tokens, _ = sequence(2, None)
    mask = torch.tensor([[True, False, True, True, True]])
    keys = Keys(mask, True, torch.tensor([[9.0, 0.0, 1.0, 2.0, 3.0]]))
    found = attention_mask(tokens, keys, window=3)
    least = torch.finfo(torch.float32).min
    assert found.tolist() == [[[[least, 1.0, 2.0, least], [least, 1.0, 2.0, 3.0]]]]


def test_a_window_hides_what_lies_too_far_back():
    tokens, keys = sequence(5, None)
    far = attention_mask(tokens, keys, window=2)
    assert far[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert attention_mask(tokens, keys, window=5) is None
    one, longer = sequence(1, None, total=9)
    assert attention_mask(one, longer, window=4) is None  # its cache holds what it may see
