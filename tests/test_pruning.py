"""Pruning methods: pure functions with known answers on hand-made cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sts_cli import pruning
from sts_cli.engine.attention import Observer, observed_sdpa
from sts_cli.engine.decoder import proportional
from sts_cli.families.places import raster
from sts_cli.pruning.grid import grid
from sts_cli.pruning.instruction import instruction
from sts_cli.pruning.proportional import log_sizes
from sts_cli.pruning.random import random
from sts_cli.pruning.relevance import relevance
from sts_cli.pruning.repulsion import greedy, potentials, repulsion

POTENTIALS = ("riesz", "cos", "gauss")
SQUARE = raster(8, 8)
NONE = torch.empty(0, dtype=torch.long)


def features(seed: int = 0, total: int = 64, width: int = 16) -> torch.Tensor:
    return torch.randn(total, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("potential", POTENTIALS)
def test_repulsion_never_takes_a_twin_before_something_new(potential: str):
    """Four contents, many copies each: where contents count more, four tokens show all four."""
    kinds = torch.eye(4).repeat(16, 1) + 0.001 * features(width=4)
    chosen = repulsion(kinds, SQUARE, 4, potential=potential, spatial=0.25)
    assert {int(i) % 4 for i in chosen} == {0, 1, 2, 3}


def test_repulsion_spreads_over_a_flat_image():
    """Where all contents are alike, only places repel: every quarter keeps its share."""
    flat = torch.ones(64, 16) + 1e-4 * features()
    chosen = repulsion(flat, SQUARE, 16, spatial=10.0)
    quarters = [(int(row > 0.5), int(column > 0.5)) for row, column in SQUARE[chosen].tolist()]
    assert {quarters.count(quarter) for quarter in quarters} <= {3, 4, 5}
    assert len(set(quarters)) == 4


def test_repulsion_keeps_the_odd_one_out():
    same = torch.ones(64, 16) + 0.01 * features()
    same[37] = -1
    assert 37 in repulsion(same, SQUARE, 2)


def test_cos_minimises_the_sum_of_similarities_greedily():
    """Against the definition, one step after another (ToDRE's rule)."""
    unit = torch.nn.functional.normalize(features(3), dim=-1)
    chosen = repulsion(unit, SQUARE, 10, potential="cos", seed="mean")
    expected = [int((unit @ unit.mean(0)).argmin())]
    while len(expected) < 10:
        energy = (unit @ unit[expected].T).sum(1)
        energy[expected] = torch.inf
        expected.append(int(energy.argmin()))
    assert chosen.tolist() == sorted(expected)


@pytest.mark.parametrize("method", ("repulsion", "random", "grid"))
@pytest.mark.parametrize("count", (1, 2, 7, 16, 63, 64))
def test_structure_budgets_are_exact_and_indices_sorted(method: str, count: int):
    chosen = pruning.function(method)(features(), SQUARE, count).tolist()
    assert len(chosen) == count
    assert chosen == sorted(set(chosen))
    assert chosen[0] >= 0 and chosen[-1] < 64


@pytest.mark.parametrize("potential", POTENTIALS)
def test_repulsion_follows_its_tokens_when_they_are_reordered(potential: str):
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    plain = repulsion(features(5), SQUARE, 20, potential=potential)
    moved = repulsion(features(5)[order], SQUARE[order], 20, potential=potential)
    assert sorted(order[moved].tolist()) == plain.tolist()


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("value", (0.0, 1.0))
def test_repulsion_survives_tokens_that_are_all_equal(potential: str, value: float):
    chosen = repulsion(torch.full((64, 8), value), SQUARE, 9, potential=potential)
    assert len(set(chosen.tolist())) == 9


def test_repulsion_does_the_same_in_bfloat16():
    half = features(7).bfloat16()
    assert torch.equal(repulsion(half, SQUARE, 16), repulsion(half.float(), SQUARE, 16))


def test_instruction_takes_the_most_attended_and_the_first_of_equals():
    looked = {"features": features(total=5), "sure": NONE}
    scores = torch.tensor([0.1, 0.4, 0.4, 0.05, 0.4])
    assert instruction(scores, SQUARE[:5], 2, **looked).tolist() == [1, 2]
    assert instruction(scores, SQUARE[:5], 4, **looked).tolist() == [0, 1, 2, 4]


def test_relevance_lies_between_repulsion_and_attention():
    looked = {"features": features(), "sure": NONE}
    scores = torch.rand(64, generator=torch.Generator().manual_seed(7))
    even = torch.full((64,), 0.5)
    best = set(instruction(scores, SQUARE, 16, **looked).tolist())
    kept = {
        weight: set(relevance(scores, SQUARE, 16, weight=weight, **looked).tolist())
        for weight in (0.0, 0.25, 16.0)
    }
    unit = torch.nn.functional.normalize(features(), dim=-1)
    repel = potentials(unit @ unit.mT, SQUARE, "riesz", spatial=1.0, exponent=2.0)
    assert kept[0.0] == set(greedy(repel, scores.argmax()[None], 16).tolist())
    assert (
        relevance(even, SQUARE, 16, weight=16.0, **looked).tolist()
        == relevance(even, SQUARE, 16, weight=0.0, **looked).tolist()
    )
    overlap = [len(kept[weight] & best) for weight in (0.0, 0.25, 16.0)]
    assert overlap[0] < overlap[1] < overlap[2] and overlap[2] >= 14


@pytest.mark.parametrize("method", (instruction, relevance))
def test_what_is_sure_stays(method: Callable[..., torch.Tensor]):
    scores = torch.linspace(1, 0, 64)
    sure = torch.tensor([60, 63])
    for count in (1, 2, 5, 64):
        chosen = method(scores, SQUARE, count, features=features(), sure=sure).tolist()
        assert len(set(chosen)) == count
        assert count < 2 or {60, 63} <= set(chosen)


def test_random_is_the_same_for_the_same_draw_only():
    first = random(features(), SQUARE, 16, draw=1)
    assert torch.equal(first, random(features(9), SQUARE, 16, draw=1))
    assert not torch.equal(first, random(features(), SQUARE, 16, draw=2))


def test_grid_of_sixteen_is_every_second_row_and_column():
    rows = SQUARE[grid(features(), SQUARE, 16)]
    assert len(rows[:, 0].unique()) == 4
    assert len(rows[:, 1].unique()) == 4


def test_every_method_of_the_tables_exists():
    for name in (*pruning.STRUCTURE, *pruning.SEMANTICS):
        assert callable(pruning.function(name))


def test_every_dropped_token_counts_for_one_that_is_left():
    keep = torch.arange(64) % 5 == 0
    sizes = log_sizes(features(), SQUARE, torch.zeros(64), keep).exp()
    assert sizes.sum() == pytest.approx(64) and (sizes >= 1).all()
    again = torch.arange(13) % 2 == 0  # a second cut: sizes add up
    left = log_sizes(features()[keep], SQUARE[keep], sizes.log(), again).exp()
    assert left.sum() == pytest.approx(64) and (left >= sizes[again] - 1e-3).all()


def test_a_token_stands_for_what_is_like_it_and_near():
    content = torch.eye(2).repeat_interleave(32, 0)  # 32 alike above, 32 below
    keep = torch.zeros(64, dtype=torch.bool)
    keep[[3, 32, 63]] = True  # above, and the two corners below
    sizes = log_sizes(content, SQUARE, torch.zeros(64), keep).exp()
    assert sizes.sum() == pytest.approx(64) and sizes[0] == pytest.approx(32)
    assert sizes.min() >= 14  # the corners share what is below


def test_a_token_of_size_n_is_attended_to_as_n_equal_tokens():
    """The keys and values written out n times are the oracle, for answers and for scores."""
    made = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 6, 8, generator=made) for _ in range(3))
    times = torch.tensor([1, 3, 1, 5, 1, 1])
    hidden, module = torch.zeros(1, 6, 8), torch.nn.Module()
    module.is_causal = True
    mask = proportional(None, times.float().log()[None], hidden)
    observer = Observer(torch.ones(1, 6, dtype=torch.bool))
    found, _ = observed_sdpa(module, query, key, value, mask, observer=observer)
    wide = torch.arange(6).repeat_interleave(times)  # [12]
    seen = wide <= torch.arange(6)[:, None]
    many = (t.repeat_interleave(times, dim=2) for t in (key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(query, *many, attn_mask=seen)
    torch.testing.assert_close(found, expected.transpose(1, 2))
    logits = query @ key.repeat_interleave(times, dim=2).mT / 8**0.5
    weights = logits.masked_fill(~seen, -torch.inf).softmax(-1).mean((0, 1, 2))
    scores = torch.zeros(6).index_add(0, wide, weights)
    torch.testing.assert_close(observer.found()[0], scores)


def test_sizes_reach_keys_behind_padding_and_in_a_window():
    mask = torch.tensor([[[[False, True, False, False], [False, True, True, False]]]])
    size = torch.tensor([[9.0, 0.0, 1.0, 2.0, 3.0]])  # the window holds the last four
    found = proportional(mask, size, torch.zeros(1, 2, 8))
    least = torch.finfo(torch.float32).min
    assert found.tolist() == [[[[least, 1.0, least, least], [least, 1.0, 2.0, least]]]]
