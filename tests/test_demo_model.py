"""The recipe of the demo model: what it trains is what transformers runs, and it can go on."""

from __future__ import annotations

import random

import torch
from torch import nn

from demo_model.build import tokenizer
from demo_model.check import check
from demo_model.elsewhere import FLAT_SIDE, flat, room
from demo_model.labels import labels, letters
from demo_model.losses import Packer
from demo_model.optimizer import Optimizer
from demo_model.pointing import Things, cell, hints
from demo_model.stream import chosen
from demo_model.train import complete, some
from sts_cli.evaluation.canvas import Thing
from sts_cli.evaluation.questions import questions
from sts_cli.evaluation.scenes import draw
from sts_cli.evaluation.words import COLORS, SHAPES

TOKENS = tokenizer()


def test_training_runs_the_model_that_transformers_runs() -> None:
    found = check()
    assert found["features"] < 1e-5 and found["logits"] < 1e-4 * max(1, found["scale"])


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
    """Matrices inside layers, and others, so that both optimizers have something to do."""
    torch.manual_seed(0)
    made = nn.Module()
    made.layers = nn.ModuleList([nn.Linear(8, 8)])
    outer = nn.Module()
    outer.inner, outer.out = made, nn.Linear(8, 3)
    return outer.bfloat16()


def train(made: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(100 + step)
        hidden = made.inner.layers[0](torch.randn(5, 8).bfloat16()).relu()
        made.out(hidden).float().square().mean().backward()
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
        found = labels(scene)
        for number, thing in enumerate(scene.things, 1):
            indexes = set(found[found[:, 9] == number, 3].tolist())
            assert set(range(1, 1 + len(thing.text))) <= indexes


def encode(text: str) -> list[int]:
    found: list[int] = TOKENS.encode(text, add_special_tokens=False)
    return found


def meant(said: str, things: Things) -> set[Thing]:
    """The things that the name means which ends `said`, word by word."""
    *before, word = said.lower().split()
    colors = [before[-1]] if before and before[-1] in COLORS else list(COLORS)
    shapes = [one for one, many in SHAPES.items() if word in (one, many, "shapes")] or [word]
    return {one for one in things if one.shape in shapes and one.color in colors}


def test_a_name_in_a_question_hints_at_all_that_it_means() -> None:
    seen = 0
    for seed in range(40):
        things = letters(draw(seed, 0.0))
        for asked in questions(draw(seed, 0.0), random.Random(seed)):
            spelled = asked.question[0].upper() + asked.question[1:]
            for question in (asked.question, spelled):
                ids = encode(question)
                found = hints(asked.kind, question, asked.answer, things, encode)
                for token, cells in found.cells:
                    named = meant(TOKENS.decode(ids[: token + 1]), things)
                    assert cells == {cell(one.center) for one in named}
                for token, at in found.points:
                    if token < len(ids):
                        said = TOKENS.decode(ids[: token + 1])
                        texts = {one for one in things if one.text and said.endswith(one.text)}
                        (one,) = texts if "says" in said else meant(said, things)
                        assert at == one.center
                        seen += 1
    assert seen > 200


def test_an_answer_hints_at_the_thing_or_letter_that_comes_next() -> None:
    seen = 0
    for seed in range(40):
        things = letters(draw(seed, 0.0))
        for asked in questions(draw(seed, 0.0), random.Random(seed)):
            first, answer = len(encode(asked.question)), encode(asked.answer)
            found = hints(asked.kind, asked.question, asked.answer, things, encode)
            for token, at in found.points:
                if token < first:
                    continue
                (thing,) = (one for one in things if at in (one.center, *things[one]))
                said = TOKENS.decode(answer[: token - first])
                coming = asked.answer[len(said) :].removeprefix(",").removeprefix(" and").lstrip()
                if at == thing.center:
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
        packer.asked(one.kind, one.question, one.answer, things)
        for one in questions(draw(11, 0.0), random.Random(1))
    ]
    packed, _ = packer.lay([asked[:2], asked])
    ids, segment = packed["ids"], packed["segment"]
    assert len(packed["naming"]) == sum(len(one.hints.cells) for one in asked[:2] + asked)
    for (row, token), cells in zip(packed["naming"].tolist(), packed["cells"], strict=True):
        own = segment[row, : token + 1] == segment[row, token]
        said = TOKENS.decode(ids[row, : token + 1][own])
        named = {cell(one.center) for one in meant(said, things)}
        assert set(cells.nonzero()[:, 0].tolist()) == named
    assert len(packed["points"]) == sum(len(one.hints.points) for one in asked[:2] + asked)


def test_which_scenes_have_large_shapes_says_nothing_else_about_them() -> None:
    square: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(3000):
        _, scale = chosen(seed, 0.5)
        square[scale > 1].append(random.Random(seed).random() < 0.5)  # as `draw` begins
    shares = [sum(found) / len(found) for found in square.values()]
    assert len(square[True]) > 300 and abs(shares[0] - shares[1]) < 0.1


def test_a_sign_is_told_from_another_by_its_whole_text() -> None:
    left, right = (0.1, 0.1, 0.4, 0.2), (0.6, 0.1, 0.9, 0.2)
    things = {
        Thing("sign", "red", left, "NO", "white"): ((0.2, 0.15), (0.3, 0.15)),
        Thing("sign", "blue", right, "NORTH", "white"): ((0.7, 0.15),) * 5,
        Thing("star", "red", (0.5, 0.5, 0.6, 0.6)): (),
    }
    for sign in list(things)[:2]:
        question = f"what color is the sign that says {sign.text}?"
        found = hints("sign_color", question, sign.color, things, encode)
        assert [at for _, at in found.points] == [sign.center]
