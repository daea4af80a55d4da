"""Training of the demo model: it trains the model that transformers runs, and can be resumed."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch import nn

from demo_model import evaluate
from demo_model.build import tokenizer
from demo_model.check import check
from demo_model.elsewhere import FLAT_SIDE, flat, room
from demo_model.forward import Half
from demo_model.labels import GRID, labels, letters
from demo_model.losses import Packer, early, later, looked
from demo_model.optimizer import Optimizer
from demo_model.pointing import CELLS, Point, Things, cell, hints
from demo_model.stream import chosen
from demo_model.train import complete, some
from sts_cli.scenes.canvas import Thing
from sts_cli.scenes.drawing import Scene, draw
from sts_cli.scenes.questions import questions
from sts_cli.scenes.words import COLORS, SHAPES

TOKENS = tokenizer()
SEEDS = range(30)


def test_training_runs_the_model_that_transformers_runs() -> None:
    errors = check()
    assert errors["features"] < 1e-5 and errors["logits"] < 1e-4 * max(1, errors["scale"])


def test_training_that_was_interrupted_goes_on_as_if_it_had_not_been() -> None:
    whole, first = network(), network()
    steady = Optimizer([(1e-2, whole.named_parameters())])
    train(whole, steady, range(6))
    begun = Optimizer([(1e-2, first.named_parameters())])
    train(first, begun, range(3))
    second = network()
    second.load_state_dict(first.state_dict())
    resumed = Optimizer([(1e-2, second.named_parameters())])
    resumed.load(begun.state())
    train(second, resumed, range(3, 6))
    for name, weight in whole.named_parameters():
        torch.testing.assert_close(second.get_parameter(name), weight)


def network() -> nn.Module:
    """A model with matrices inside layers and others, so that both optimizers are used."""
    torch.manual_seed(0)
    inner = nn.Module()
    inner.layers = nn.ModuleList([nn.Linear(8, 8)])
    outer = nn.Module()
    outer.inner, outer.out = inner, nn.Linear(8, 3)
    return outer.bfloat16()


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(100 + step)
        hidden = model.inner.layers[0](torch.randn(5, 8).bfloat16()).relu()
        model.out(hidden).float().square().mean().backward()
        optimizer.step(1.0)


def test_a_thing_counts_as_seen_only_where_the_whole_of_it_is() -> None:
    everywhere = torch.tensor([[0, 1, 1, 2, 2, 0]])
    window = everywhere[:, :4]
    assert complete(everywhere, window).tolist() == [[False, True, True, False]]


def test_what_things_cover_is_shown_before_background() -> None:
    thing = torch.tensor([False, True, False, False, True, False])
    for count in (2, 4, 6):
        chosen = some(thing, count)
        assert len(chosen) == count and chosen.tolist() == sorted(set(chosen.tolist()))
        assert {1, 4} <= set(chosen.tolist())


def test_pictures_drawn_by_other_means_show_what_they_say() -> None:
    for seed in range(20):
        icon = flat(seed)
        (thing,) = icon.things
        assert icon.image.size == (FLAT_SIDE, FLAT_SIDE)
        colors = {color for _, color in icon.image.getcolors() or []}
        assert len(colors) == 2 and (255, 255, 255) in colors
        assert all(0 <= part <= 1 for part in thing.box)
    kinds = [thing.shape for seed in range(10) for thing in room(seed).things]
    assert "sign" in kinds and len(set(kinds)) > 3
    assert room(3).image.tobytes() == room(3).image.tobytes()


def test_every_letter_of_an_easy_sign_has_a_patch_of_its_own() -> None:
    for seed in range(30):
        scene = draw(seed, 0.0)
        patch_labels = labels(scene)
        for number, thing in enumerate(scene.things, 1):
            indexes = set(patch_labels[patch_labels[:, 9] == number, 3].tolist())
            assert set(range(1, 1 + len(thing.text))) <= indexes


def encode(text: str) -> list[int]:
    ids: list[int] = TOKENS.encode(text, add_special_tokens=False)
    return ids


def meant(said: str, things: Things) -> set[Point]:
    """The places of the things that the last name in `said` means, or of its last quoted letter."""
    *before, word = said.split()
    if before and before[-1] == "says":
        return {at[len(word) - 1] for thing, at in things.items() if thing.text.startswith(word)}
    before, word = [part.lower() for part in before], word.lower()
    colors = [before[-1]] if before and before[-1] in COLORS else list(COLORS)
    shapes = [name for name, many in SHAPES.items() if word in (name, many, "shapes")] or [word]
    return {thing.center for thing in things if thing.shape in shapes and thing.color in colors}


def test_a_name_or_a_text_in_a_question_hints_at_all_that_it_means() -> None:
    seen = 0
    for seed in range(40):
        things = letters(draw(seed, 0.0))
        for asked in questions(draw(seed, 0.0), random.Random(seed)):
            spelled = asked.question[0].upper() + asked.question[1:]
            for question in (asked.question, spelled):
                ids = encode(question)
                hinted = hints(asked.kind, question, asked.answer, things, encode)
                for token, cells in hinted.cells:
                    named = meant(TOKENS.decode(ids[: token + 1]), things)
                    assert cells == {cell(at) for at in named}
                for token, at in hinted.points:
                    if token < len(ids):
                        said = TOKENS.decode(ids[: token + 1])
                        quoted = [t for t in things if said.endswith(f"says {t.text}")]
                        texts = {thing.center for thing in quoted}
                        assert {at} == (texts or meant(said, things))
                        seen += 1
    assert seen > 200


def test_an_answer_hints_at_the_thing_or_letter_that_comes_next() -> None:
    seen = 0
    for seed in range(40):
        things = letters(draw(seed, 0.0))
        for asked in questions(draw(seed, 0.0), random.Random(seed)):
            first, answer = len(encode(asked.question)), encode(asked.answer)
            hinted = hints(asked.kind, asked.question, asked.answer, things, encode)
            for token, at in hinted.points:
                if token < first:
                    continue
                (thing,) = (other for other in things if at in (other.center, *things[other]))
                said = TOKENS.decode(answer[: token - first])
                coming = asked.answer[len(said) :].removeprefix(",").removeprefix(" and").lstrip()
                if asked.kind == "sign_color":
                    assert at == thing.center and thing.color == asked.answer and not said
                elif at == thing.center:
                    named = coming.removeprefix("an ").removeprefix("a ")
                    assert named.startswith(f"{thing.color} {thing.shape}")
                else:
                    assert coming.startswith(thing.text[things[thing].index(at)])
                seen += 1
    assert seen > 300


def test_packed_questions_keep_their_hints() -> None:
    things = letters(draw(11, 0.0))
    packer = Packer(TOKENS, 400)
    asked = [
        packer.asked(question.kind, question.question, question.answer, things)
        for question in questions(draw(11, 0.0), random.Random(1))
    ]
    packed, _ = packer.lay([asked[:2], asked])
    ids, segment = packed["ids"], packed["segment"]
    assert len(packed["naming"]) == sum(len(row.hints.cells) for row in asked[:2] + asked)
    for (row, token), cells in zip(packed["naming"].tolist(), packed["cells"], strict=True):
        own = segment[row, : token + 1] == segment[row, token]
        said = TOKENS.decode(ids[row, : token + 1][own])
        named = {cell(at) for at in meant(said, things)}
        assert set(cells.nonzero()[:, 0].tolist()) == named
    assert len(packed["points"]) == sum(len(row.hints.points) for row in asked[:2] + asked)


def test_what_is_asked_of_a_scene_says_nothing_else_about_it() -> None:
    draws = [(chosen(seed, 0.5), random.Random(seed).random()) for seed in range(3000)]
    for yes in (lambda pick: pick.scale > 1, lambda pick: pick.signs == 2, lambda pick: pick.dense):
        low: dict[bool, list[bool]] = {True: [], False: []}
        for pick, first in draws:
            low[yes(pick)].append(first < 0.5)  # as `draw` begins
        shares = [sum(marks) / len(marks) for marks in low.values()]
        assert len(low[True]) > 300 and abs(shares[0] - shares[1]) < 0.1


def test_as_many_signs_hang_as_training_asks_for() -> None:
    for signs in (0, 1, 2):
        counts = [
            sum(thing.shape == "sign" for thing in draw(i, 0.0, signs=signs).things) for i in SEEDS
        ]
        assert max(counts) == signs and sum(counts) >= 0.9 * signs * len(SEEDS)


def test_a_sign_is_told_from_another_by_its_whole_text() -> None:
    left, right = (0.1, 0.1, 0.4, 0.2), (0.6, 0.1, 0.9, 0.2)
    things = {
        Thing("sign", "red", left, "NO", "white"): ((0.2, 0.15), (0.3, 0.15)),
        Thing("sign", "blue", right, "NORTH", "white"): tuple(
            (x / 20, 0.15) for x in range(13, 18)
        ),
        Thing("star", "red", (0.5, 0.5, 0.6, 0.6)): (),
    }
    for sign in list(things)[:2]:
        question = f"what color is the sign that says {sign.text}?"
        hinted = hints("sign_color", question, sign.color, things, encode)
        assert [at for _, at in hinted.points] == [sign.center] * 2  # its text's end, its answer
        cells = dict(hinted.cells)
        for i, letter in enumerate(sign.text):
            token = len(encode(question[: question.index(sign.text) + i + 1])) - 1
            start = sign.text[: i + 1]
            alike = {at[i] for thing, at in things.items() if thing.text.startswith(start)}
            assert TOKENS.decode(encode(question)[token]) == letter
            assert cells[token] == {cell(at) for at in alike}
            assert len(alike) == (2 if i < 2 else 1)


def test_the_color_of_a_sign_is_asked_mostly_where_two_hang() -> None:
    packer, asked = Packer(TOKENS, 400), Counter[int]()
    for signs in (1, 2):
        for seed in SEEDS:
            things = letters(draw(seed, 0.0, signs=signs))
            if sum(thing.shape == "sign" for thing in things) == signs:
                _, kinds = packer.pack([things], random.Random(seed), later)
                asked[signs] += kinds.count("sign_color")
    assert asked[2] > 3 * asked[1] > 0
    assert early(things) == early({})  # nothing is rarer before colors are known


def test_a_look_counts_where_one_head_finds_what_a_token_names() -> None:
    things = letters(draw(11, 0.0))
    row = [
        Packer(TOKENS, 400).asked(question.kind, question.question, question.answer, things)
        for question in questions(draw(11, 0.0), random.Random(1))
    ]
    packed, _ = Packer(TOKENS, 400).lay([row])
    shared = 2 + GRID * GRID
    query = torch.zeros(1, 2, shared + packed["ids"].shape[1], CELLS * CELLS)
    key = torch.zeros_like(query)
    where = torch.arange(GRID * GRID)
    cells = where // GRID * CELLS // GRID * CELLS + where % GRID * CELLS // GRID
    key[0, :, 2 + where] = torch.eye(CELLS * CELLS)[cells]  # a patch is known by its cell
    blind = looked(Half(query, query, key), packed, where[None])
    for (_, token), wanted in zip(packed["naming"].tolist(), packed["cells"], strict=True):
        query[0, 1, shared + token] = 100 * wanted
    assert looked(Half(query, query, key), packed, where[None]) < 1e-3 < 3 < blind
    query[0, 1], query[0, 0] = 0, 100 * torch.ones(CELLS * CELLS)  # at everything alike
    assert looked(Half(query, query, key), packed, where[None]) > 3


def test_the_parts_of_a_set_are_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes score the same scenes as one process."""
    monkeypatch.setitem(evaluate.SETS, "easy", lambda seed: Scene(None, (seed,), None, None))  # type: ignore
    whole = list(evaluate.drawn("easy", 52))
    parts = [scene for i in range(3) for scene in evaluate.drawn("easy", 52, (i, 3))]
    assert [i for i, _ in whole] == list(range(52))
    assert sorted((i, scene.things) for i, scene in parts) == [(i, s.things) for i, s in whole]
