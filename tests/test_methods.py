"""Methods beside STS: hand-made tokens whose right choice follows from each paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sts_cli import pruning
from sts_cli.engine.choosing import exactly, joined, with_floors
from sts_cli.engine.queries import raters
from sts_cli.engine.sizes import merged
from sts_cli.families.places import raster
from sts_cli.pruning import Candidates, Cutting, Method
from sts_cli.pruning.cdpruner import Cdpruner, relevance
from sts_cli.pruning.divprune import Divprune
from sts_cli.pruning.fastv import Fastv
from sts_cli.pruning.feather import Feather
from sts_cli.pruning.grid import lattice
from sts_cli.pruning.hawk import Hawk
from sts_cli.pruning.pyramid_drop import PyramidDrop
from sts_cli.pruning.sgl import Sgl
from sts_cli.pruning.sparsevlm import Sparsevlm
from sts_cli.pruning.star import Star
from sts_cli.pruning.star_pro import StarPro
from sts_cli.pruning.todre import Todre
from sts_cli.pruning.topv import Topv
from sts_cli.pruning.trimmed_llama import TrimmedLlama
from sts_cli.pruning.vflowopt import Vflowopt
from sts_cli.pruning.visionzip import Visionzip
from sts_cli.pruning.vscan import Vscan

SQUARE = raster(8, 8)
SCORES = ("attention", "guide", *pruning.OF_ENCODER)  # one number a token


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shares(total: int, seed: int) -> torch.Tensor:
    return torch.rand(total, generator=torch.Generator().manual_seed(seed))


def look(values: Any, grid: torch.Tensor | None = None, **more: Any) -> Candidates:
    """One image's tokens, each of which stands for itself."""
    values = torch.as_tensor(values, dtype=torch.float32)
    grid = raster(1, len(values)) if grid is None else grid
    one = torch.zeros(len(values), dtype=torch.long)
    return Candidates(values, grid, one, torch.ones(len(values)), **more)


def kept(method: Method, seen: Candidates, count: int) -> list[int]:
    return method.cut(seen, count).keep.tolist()


def everything(total: int = 64, grid: torch.Tensor = SQUARE) -> Candidates:
    """Tokens with all that any method needs, drawn."""
    return look(
        drawn(total, 16),
        grid,
        attention=shares(total, 1),
        heads=drawn(4, total, seed=8).softmax(-1),
        question=drawn(5, 16, seed=2),
        seed=3,
        products=drawn(4, total, seed=4),
        encoder=shares(total, 5),
        patches=shares(total, 6),
        shallow=shares(total, 7),
        guide=shares(total, 8),
    )


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """LearnPruner's, drawn, for the tokens of `everything`."""
    shapes = {"norm": [16], "norm_bias": [16], "hidden": [8, 16], "hidden_bias": [8]}
    weights = {name: drawn(*shape, seed=9) for name, shape in (*shapes.items(), ("score", [1, 8]))}
    path = tmp_path_factory.mktemp("scorer") / "any.safetensors"
    save_file(weights, path)
    return str(path)


def built(name: str, scorer: str) -> Method:
    return pruning.build(name, {"scorer": scorer} if name == "learnpruner" else {})


@pytest.mark.parametrize("name", pruning.names())
@pytest.mark.parametrize("count", (1, 2, 7, 16, 63))
def test_every_method_keeps_its_budget_and_merges_into_what_it_keeps(
    name: str, count: int, scorer: str
):
    seen = everything()
    cutting = built(name, scorer).cut(seen, count)
    assert cutting.keep.tolist() == sorted(set(cutting.keep.tolist()))
    assert len(cutting.keep) == count and cutting.keep[0] >= 0 and cutting.keep[-1] < 64
    into = torch.arange(64) if cutting.into is None else cutting.into
    assert into[cutting.keep].tolist() == cutting.keep.tolist()
    assert cutting.into is None or set(into.tolist()) == set(cutting.keep.tolist())
    again = built(name, scorer).cut(seen, count)
    assert torch.equal(again.keep, cutting.keep)


@pytest.mark.parametrize("name", pruning.names())
def test_every_method_takes_tokens_that_are_all_equal(name: str, scorer: str):
    seen = everything()
    flat = Candidates(
        torch.ones(64, 16),
        SQUARE,
        seen.image,
        seen.size,
        **{need: torch.full((64,), 0.1) for need in SCORES},
        question=seen.question,
        seed=3,
        heads=torch.full((4, 64), 1 / 64),
        products=torch.zeros(4, 64),
    )
    assert len(set(kept(built(name, scorer), flat, 9))) == 9


@pytest.mark.parametrize("name", pruning.names())
def test_two_images_share_a_later_budget(name: str, scorer: str):
    """All scores fall from the first image to the second, which is then cut alone."""
    method, seen = built(name, scorer), everything()
    falling = torch.linspace(1, 0.1, 64)
    both = replace(
        seen,
        image=torch.arange(64) // 32,
        products=falling.repeat(4, 1) * 9,
        heads=falling.repeat(4, 1),
        **dict.fromkeys(SCORES, falling),
    )
    cutting, left = with_floors(method, both, [32, 32], [6, 9], 20)
    assert sum(left) == len(cutting.keep) == 20 and left[0] >= 6 and left[1] >= 9
    assert left == both.image[cutting.keep].bincount(minlength=2).tolist()
    assert cutting.keep.tolist() == sorted(set(cutting.keep.tolist()))
    assert cutting.into is None or set(cutting.into.tolist()) == set(cutting.keep.tolist())


def test_trimmed_llama_keeps_what_any_head_names():
    """The second head alone sees token 3: its mean is among the least, and it is kept second."""
    heads = torch.tensor(
        [[0.50, 0.30, 0.15, 0.01, 0.04], [0.30, 0.20, 0.05, 0.35, 0.10], [0.5, 0.1, 0.3, 0.0, 0.1]]
    )
    seen = look(torch.eye(5), heads=heads)
    assert [kept(TrimmedLlama(), seen, count) for count in (1, 2, 3, 4)] == [
        [0],  # first in two heads, as 3 is in one; of all attention 0 has more
        [0, 3],
        [0, 1, 3],  # 1 and 2 are second in one head each; 1 has more of all attention
        [0, 1, 2, 3],
    ]


def test_trimmed_llama_is_the_union_of_what_each_head_names():
    heads = drawn(8, 60, seed=21).mul(3).softmax(-1)
    for named in (1, 2, 5, 9):
        union = sorted({*heads.topk(named, dim=1).indices.flatten().tolist()})
        assert kept(TrimmedLlama(), look(drawn(60, 4), heads=heads), len(union)) == union


def test_divprune_begins_with_the_loner_and_takes_no_twin():
    values = [[1, 0], [1, 0.01], [0, 1], [-1, 0]]
    assert kept(Divprune(), look(values), 1) == [3]
    assert kept(Divprune(), look(values), 2) == [0, 3]  # exactly opposite
    assert kept(Divprune(), look(values), 3) == [0, 2, 3]


def test_divprune_maximises_the_least_distance_pair_by_pair():
    values = drawn(40, 6, seed=9).double()
    unit = values / values.norm(dim=1, keepdim=True)
    apart = 1 - unit @ unit.T
    others = apart + 9 * torch.eye(40)
    chosen = [int(others.min(1).values.argmax())]
    while len(chosen) < 12:
        best = apart[:, chosen].min(1).values
        best[chosen] = -1
        chosen.append(int(best.argmax()))
    assert kept(Divprune(), look(values), 12) == sorted(chosen)


def test_todre_adds_up_likeness_where_divprune_takes_the_nearest():
    values = torch.nn.functional.normalize(drawn(30, 3, seed=2).double(), dim=1)
    cosine = values @ values.T
    chosen = [int((values @ values.mean(0)).argmin())]
    while len(chosen) < 8:
        sums = cosine[:, chosen].sum(1)
        sums[chosen] = 9
        chosen.append(int(sums.argmin()))
    assert kept(Todre(), look(values), 8) == sorted(chosen) != kept(Divprune(), look(values), 8)


def test_star_pro_takes_what_is_left_after_the_chosen_are_taken_out():
    values = [[3, 0, 0], [2.9, 0.1, 0], [0, 1, 0], [0, 0, 0.5]]
    assert kept(StarPro(), look(values), 1) == [0]
    assert kept(StarPro(), look(values), 2) == [0, 2]
    assert kept(StarPro(), look(values), 3) == [0, 2, 3]
    assert kept(StarPro(), look(values), 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("features", ("raw", "unit", "centred"))
def test_star_pro_picks_as_qr_with_pivots(features: Any):
    values = drawn(40, 12, seed=3).double() * torch.linspace(1, 3, 40)[:, None]
    rest = values
    if features == "unit":
        rest = values / values.norm(dim=1, keepdim=True)
    if features == "centred":
        rest = values - values.mean(0)
    chosen = []
    for _ in range(10):
        best = int(rest.norm(dim=1).round(decimals=9).argmax())
        chosen.append(best)
        direction = rest[best] / rest[best].norm()
        rest = rest - (rest @ direction)[:, None] * direction
    assert kept(StarPro(features=features), look(values), 10) == sorted(chosen)


def test_star_pro_fills_up_with_the_largest_once_all_is_spanned():
    values = [[5, 0], [0, 4], [3, 0], [0, 1], [0, 2]]
    assert kept(StarPro(), look(values), 4) == [0, 1, 2, 4]


def test_cdpruner_takes_neither_a_twin_nor_what_nobody_asked_for():
    values = torch.eye(3)[[0, 0, 1, 2]]
    question = torch.tensor([[4.0, 0, 0], [0, 2.0, 0]])
    assert kept(Cdpruner(), look(values, question=question), 2) == [0, 2]
    other = torch.tensor([[0, 0, 1.0], [0.2, 0, 0]])
    assert kept(Cdpruner(), look(values, question=other), 2) == [0, 3]


def test_cdpruner_without_a_question_is_diversity_alone():
    unit = torch.eye(3)[[0, 0, 1, 2]]
    assert relevance(unit, torch.empty(0, 3)).tolist() == [1, 1, 1, 1]
    assert kept(Cdpruner(), look(unit, question=torch.empty(0, 3)), 3) == [0, 2, 3]


@pytest.mark.parametrize(
    ("method", "rows"), [(Fastv(), "last"), (PyramidDrop(), "last"), (Sparsevlm(), "raters")]
)
def test_attention_methods_take_the_most_attended_and_ask_the_rows_of_their_paper(
    method: Any, rows: str
):
    seen = look(drawn(5, 4), attention=torch.tensor([0.1, 0.4, 0.4, 0.05, 0.45]))
    assert method.rows == rows
    assert kept(method, seen, 1) == [4] and kept(method, seen, 2) == [1, 4]


def prompts(words: list[list[list[float]]], image: list[list[float]]) -> Any:
    """Prompts of an image and some words, padded on the left with what must not count."""
    from sts_cli.decoding.tokens import text_tokens

    longest = max(len(row) for row in words) + len(image)
    hidden = torch.full((len(words), longest, 2), 99.0)
    mask = torch.zeros((len(words), longest), dtype=torch.bool)
    shown = torch.full((len(words), longest), -1)
    for row, given in enumerate(words):
        start = longest - len(given) - len(image)
        hidden[row, start:] = torch.tensor([*image, *given])
        mask[row, start:] = True
        shown[row, start : start + len(image)] = 0
    tokens = text_tokens(hidden[:, :1], torch.zeros(1, len(words)))
    return type(tokens)(**{**vars(tokens), "hidden": hidden, "mask": mask, "image": shown})


def test_raters_are_the_words_that_look_like_the_image():
    entered = prompts(
        [[[3, 0], [0, 1], [0, 0], [2.9, 0]], [[0, 1], [1, 0]], [[0, 1]]], [[1, 0], [2, 0]]
    )
    counts = torch.tensor([4, 2, 1])
    asked = torch.arange(4) >= 4 - counts[:, None]
    assert raters(asked, entered).tolist() == [
        [True, False, False, True],
        [False, False, False, True],
        [False, False, False, True],  # a question of one word has one
    ]
    blind = replace(entered, image=torch.full_like(entered.image, -1))
    assert raters(asked, blind).tolist() == asked.tolist()  # no image: all words


def test_feather_takes_the_best_without_rope_and_a_grid_beside_them():
    products = torch.zeros(2, 64)
    products[0, 5] = products[1, 6] = 4
    products[:, 40] = 3
    seen = look(drawn(64, 4), SQUARE, products=products)
    assert kept(Feather(uniform=0), seen, 3) == [5, 6, 40]
    sample = set(lattice(SQUARE, 4).tolist())
    assert set(kept(Feather(uniform=0.5), seen, 7)) == sample | {5, 6, 40}


def test_feather_shares_each_head_out_over_the_tokens():
    """The first head is loud about one token; the second is as sure of another."""
    products = torch.tensor([[90.0, 0, 80, 0], [0, 9, 0, 0]])
    assert kept(Feather(uniform=0), look(drawn(4, 4), products=products), 2) == [0, 1]


def test_hawk_lets_no_head_be_louder_than_another():
    products = torch.tensor([[3.0, 4, 0], [0.008, 0, 0.006]])
    assert kept(Hawk(), look(drawn(3, 4), products=products), 1) == [0]


def test_hawk_weighs_heads_as_published():
    products = torch.zeros(28, 3)
    products[26, 0], products[1, 1], products[0, 2] = 1, 1, 1  # weights 0, 0.3 and 0.0875
    seen = look(drawn(3, 4), products=products)
    assert kept(Hawk(heads="qwen2.5-vl-7b"), seen, 1) == [1]
    assert kept(Hawk(heads="qwen2.5-vl-7b"), seen, 2) == [1, 2]


def test_star_takes_what_gets_the_most_attention_in_the_encoder():
    seen = look(drawn(4, 4), patches=torch.tensor([0.1, 0.5, 0.2, 0.2]))
    assert kept(Star(), seen, 1) == [1] and kept(Star(), seen, 2) == [1, 2]


def test_sgl_takes_what_the_guide_looked_at():
    seen = look(drawn(4, 4), guide=torch.tensor([0.1, 0.2, 0.5, 0.2]))
    assert kept(Sgl(), seen, 1) == [2] and kept(Sgl(), seen, 2) == [1, 2]


def test_visionzip_merges_the_rest_into_every_so_many_of_them():
    """Two dominant tokens; of the six others the first and the fourth take the like of them in."""
    attention = torch.tensor([0.1, 0.1, 0.9, 0.1, 0.8, 0.1, 0.1, 0.1])
    values = torch.eye(2)[[0, 1, 0, 0, 1, 1, 1, 0]]
    cutting = Visionzip(contextual=0.5).cut(look(values, encoder=attention), 4)
    assert cutting.keep.tolist() == [0, 2, 4, 5]  # the others are 0, 1, 3, 5, 6, 7
    assert cutting.into is not None
    assert cutting.into.tolist() == [0, 5, 2, 0, 4, 5, 5, 0]
    assert Visionzip(contextual=0).cut(look(values, encoder=attention), 2).into is None


def test_vscan_takes_the_best_of_all_and_the_best_of_each_window():
    encoder = torch.zeros(64)
    encoder[[0, 1, 8, 9]] = 1  # all in one corner
    shallow = torch.zeros(64)
    shallow[[0, 1, 16]] = torch.tensor([0.9, 0.8, 0.7])  # the first two are kept already
    shallow[[4, 32, 36]] = torch.tensor([0.3, 0.2, 0.1])  # one in each other quarter
    shallow[5] = 0.29  # better than two of them, and second in its quarter
    values = torch.eye(4)[(SQUARE[:, 0] > 0.5).long() * 2 + (SQUARE[:, 1] > 0.5).long()]
    cutting = Vscan(windows=2).cut(look(values, SQUARE, encoder=encoder, shallow=shallow), 8)
    assert cutting.keep.tolist() == [0, 1, 4, 8, 9, 16, 32, 36]
    assert cutting.into is not None
    assert [int(cutting.into[place]) for place in (7, 39, 63, 59)] == [4, 36, 36, 32]


def test_vflowopt_recycles_the_rest_by_importance():
    patches = torch.tensor([0.5, 0.4, 0.1, 0.3, 0.2, 0.1])
    values = torch.tensor([[1, 1], [1, -1], [1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    cutting = Vflowopt(recycled=2).cut(look(values, patches=patches), 4)
    assert {0, 1} <= set(cutting.keep.tolist()) and len(cutting.keep) == 4
    assert cutting.into is not None and cutting.weight is not None
    together = [{2, 3}, {4, 5}]
    assert sorted(map(sorted, together)) == [
        [place for place in range(6) if int(cutting.into[place]) == target]
        for target in cutting.keep.tolist()
        if target > 1
    ]
    numbers = torch.arange(6.0)[:, None]
    means = merged(numbers, torch.ones(6), cutting)[:, 0]
    assert means.tolist() == pytest.approx([0, 1, (0.2 + 0.9) / 0.4, (0.8 + 0.5) / 0.3])


def test_vflowopt_recycles_no_more_than_half():
    seen = look(drawn(20, 4), patches=torch.linspace(1, 0.1, 20))
    cutting = Vflowopt(recycled=12).cut(seen, 6)
    assert cutting.keep.tolist()[:3] == [0, 1, 2]


def test_topv_keeps_what_others_can_be_built_from():
    """In a flat picture the middle is nearest to all; of three directions the middle one is."""
    flat = look(torch.ones(25, 4), raster(5, 5))
    assert kept(Topv(recover=0), flat, 1) == [12]
    degrees = torch.tensor([0.0, 25.0, 50.0]).deg2rad()
    values = torch.stack([degrees.cos(), degrees.sin()], 1)
    assert kept(Topv(spatial=0, central=0, recover=0), look(values), 1) == [1]


def test_topv_prefers_the_middle_of_the_picture():
    flat = look(torch.ones(25, 4), raster(5, 5))
    assert kept(Topv(spatial=0, central=1, recover=0), flat, 1) == [12]
    assert kept(Topv(spatial=0, central=0, recover=0), flat, 1) == [0]  # all alike


def test_topv_takes_some_back_on_a_grid():
    seen = look(torch.ones(64, 4), SQUARE)
    sample = set(lattice(SQUARE, 4).tolist())
    assert not sample <= set(kept(Topv(recover=0), seen, 10))
    assert sample <= set(kept(Topv(recover=0.4), seen, 10))


def test_parts_that_are_merged_by_weights_keep_them_when_joined():
    first = Cutting(torch.tensor([0]), torch.tensor([0, 0]), torch.tensor([3.0, 1.0]))
    whole = exactly(Star(), look(drawn(2, 4), patches=torch.ones(2)), 2)
    both = joined([(torch.tensor([1, 3]), first), (torch.tensor([0, 2]), whole)])
    assert both.keep.tolist() == [0, 1, 2]
    values = torch.tensor([[7.0], [0.0], [9.0], [4.0]])
    assert merged(values, torch.ones(4), both)[:, 0].tolist() == [7, 1, 9]
