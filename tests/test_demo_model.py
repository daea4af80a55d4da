"""The recipe of the demo model: what it trains is what transformers runs, and it can go on."""

from __future__ import annotations

import random

import torch
from torch import nn

from demo_model.build import tokenizer
from demo_model.check import check
from demo_model.elsewhere import FLAT_SIDE, flat, room
from demo_model.labels import labels, letters
from demo_model.optimizer import Optimizer
from demo_model.pointing import cell, hints
from demo_model.train import complete, some
from sts_cli.evaluation.canvas import Thing
from sts_cli.evaluation.questions import questions
from sts_cli.evaluation.scenes import draw


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


def test_hints_say_where_the_thing_or_letter_is_that_comes_next() -> None:
    tokens = tokenizer()

    def encode(text: str) -> list[int]:
        found: list[int] = tokens.encode(text, add_special_tokens=False)
        return found

    seen = 0
    for seed in range(40):
        scene = draw(seed, 0.0)
        things = letters(scene)
        for asked in questions(scene, random.Random(seed)):
            question, answer = encode(asked.question), encode(asked.answer)
            found = hints(asked.kind, asked.question, asked.answer, things, encode)
            for token, at in found.points:
                (thing,) = (one for one in things if at in (one.center, *things[one]))
                said = tokens.decode(answer[: max(0, token - len(question))])
                coming = asked.answer[len(said) :].removeprefix(",").removeprefix(" and").lstrip()
                if token < len(question):
                    assert asked.question.count(thing.shape) or thing.text in asked.question
                elif at == thing.center:
                    named = coming.removeprefix("an ").removeprefix("a ")
                    assert named.startswith(f"{thing.color} {thing.shape}")
                else:
                    assert coming.startswith(thing.text[things[thing].index(at)])
                seen += 1
            for token, cells in found.cells:
                assert token < len(question) and cells <= {cell(one.center) for one in things}
    assert seen > 500


def test_a_sign_is_told_from_another_by_its_whole_text() -> None:
    left, right = (0.1, 0.1, 0.4, 0.2), (0.6, 0.1, 0.9, 0.2)
    things = {
        Thing("sign", "red", left, "NO", "white"): ((0.2, 0.15), (0.3, 0.15)),
        Thing("sign", "blue", right, "NORTH", "white"): ((0.7, 0.15),) * 5,
        Thing("star", "red", (0.5, 0.5, 0.6, 0.6)): (),
    }
    tokens = tokenizer()
    for sign in list(things)[:2]:
        question = f"what color is the sign that says {sign.text}?"
        found = hints(
            "sign_color",
            question,
            sign.color,
            things,
            lambda text: list(tokens.encode(text, add_special_tokens=False)),
        )
        assert [at for _, at in found.points] == [sign.center]
