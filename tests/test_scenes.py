"""Scenes are what they say: same seed, same picture; labels agree with pixels; one right answer."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sts_cli.scenes.boards import typeface
from sts_cli.scenes.canvas import Thing, overlap
from sts_cli.scenes.drawing import FONTS, HELD_OUT_FONTS, Scene, draw
from sts_cli.scenes.questions import KINDS, Question, ask, questions, signs, spoken
from sts_cli.scenes.words import CHARACTERS, COLORS, SHAPES

SEEDS = range(7_000, 7_060)
SCENES = {level: [draw(seed, level) for seed in SEEDS] for level in (0.0, 1.0)}
ALL = [*SCENES[0.0], *SCENES[1.0]]


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_seed_is_a_picture(level: float) -> None:
    first, again, other = draw(11, level), draw(11, level), draw(12, level)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.things == again.things
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("scene", ALL)
def test_things_lie_inside_and_apart(scene: Scene) -> None:
    for thing in scene.things:
        left, top, right, bottom = thing.box
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
    boxes = [thing.box for thing in scene.things]
    assert not any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("scene", ALL)
def test_vocabulary(scene: Scene) -> None:
    for thing in scene.things:
        assert thing.color in COLORS
        assert thing.shape in (*SHAPES, "sign")
        assert set(thing.text) <= set(CHARACTERS)
        assert bool(thing.text) == (thing.shape == "sign") == bool(thing.text_color)


@pytest.mark.parametrize("scene", SCENES[0.0])
def test_pixels_have_the_colors_of_their_things(scene: Scene) -> None:
    pixels = np.asarray(scene.image, np.float32)
    for number, thing in enumerate(scene.things, 1):
        mine = pixels[scene.owner == number]
        assert len(mine) > 100
        assert nearest(np.median(mine, axis=0), thing) == thing.color


def nearest(pixel: np.ndarray, thing: Thing) -> str:
    """The colour name next to a pixel's; letters may cover most of a sign."""
    off = {name: float(np.abs(pixel - rgb).max()) for name, rgb in COLORS.items()}
    best = min(off, key=off.__getitem__)
    return thing.color if best == thing.text_color and thing.text else best


@pytest.mark.parametrize("scene", ALL)
def test_every_letter_has_pixels_in_order(scene: Scene) -> None:
    for number, thing in enumerate(scene.things, 1):
        shown = scene.glyph[scene.owner == number]
        assert set(np.unique(shown[shown > 0])) == set(range(1, len(thing.text) + 1))
        columns = [
            np.nonzero((scene.owner == number) & (scene.glyph == i))[1].mean()
            for i in range(1, len(thing.text) + 1)
        ]
        assert columns == sorted(columns)


def test_harder_levels_vary_more() -> None:
    assert {scene.image.size for scene in SCENES[0.0]} == {(336, 336)}
    assert len({scene.image.size for scene in SCENES[1.0]}) > 2
    counts = [len(scene.things) for scene in SCENES[1.0]]
    assert min(counts) <= 2
    assert max(counts) >= 7


def test_most_bounds_the_shapes() -> None:
    for seed in SEEDS:
        scene = draw(seed, 0.5, most=1)
        assert sum(thing.shape != "sign" for thing in scene.things) <= 1


def test_numbers_of_shapes_and_signs_are_exact_where_there_is_room() -> None:
    for seed in SEEDS:
        shapes = [thing.shape for thing in draw(seed, 0.0, signs=1, shapes=4, scale=0.5).things]
        assert len(shapes) == 5 and shapes.count("sign") == 1


def test_every_font_draws_every_character() -> None:
    assert not set(FONTS) & set(HELD_OUT_FONTS)
    for name in (*FONTS, *HELD_OUT_FONTS):
        face = typeface(name, 32)
        drawn = {bytes(face.getmask(letter)) for letter in CHARACTERS}
        assert len(drawn) == len(CHARACTERS)


def test_every_kind_is_asked() -> None:
    rng = random.Random(0)
    asked = [one for scene in ALL for one in questions(scene, rng)]
    for kind in KINDS:
        assert sum(one.kind == kind for one in asked) > len(ALL) / 3, kind
    told = {one.answer for one in asked if one.kind == "exist"}
    assert told == {"yes", "no"}
    assert any(one.question.startswith("is there no") for one in asked)


@pytest.mark.parametrize("scene", ALL)
def test_a_question_has_one_answer(scene: Scene) -> None:
    """Whatever is asked, however often: equal questions about a picture have equal answers."""
    rng, answers = random.Random(1), {}
    for kind in KINDS:
        for one in filter(None, (ask(kind, scene, rng) for _ in range(40))):
            assert answers.setdefault(one.question, one.answer) == one.answer


@pytest.mark.parametrize("scene", ALL)
def test_colors_are_asked_of_single_things(scene: Scene) -> None:
    rng = random.Random(2)
    for one in filter(None, (ask("color", scene, rng) for _ in range(20))):
        words = one.question.rstrip("?.").split()
        (meant,) = (thing for thing in scene.things if thing.shape in words)
        assert one.answer == meant.color


def test_answers_by_hand() -> None:
    things = (
        Thing("star", "red", (0.1, 0.1, 0.2, 0.2)),
        Thing("star", "blue", (0.8, 0.1, 0.9, 0.2)),
        Thing("heart", "red", (0.46, 0.8, 0.56, 0.9)),
        Thing("sign", "white", (0.4, 0.4, 0.6, 0.6), "EXIT", "black"),
    )
    blank = np.zeros((1, 1), np.uint8)
    scene = Scene(draw(0).image, things, blank, blank)
    told = answers_to(scene)
    expected = {
        "what is on the sign?": "EXIT",
        "what color is the sign?": "white",
        "what color is the text on the sign?": "black",
        "what color is the heart?": "red",
        "what shape is blue?": "star",
        "is there a red star?": "yes",
        "is there a blue heart?": "no",
        "is there no blue heart?": "yes",
        "how many stars are there?": "2",
        "how many shapes are there?": "3",
        "where is the heart relative to the sign?": "below",
        "is the red star left of the blue star?": "yes",
        "where is the red star?": "top left",
        "where is the sign?": "center",
        "what is in the image?": "a red star, a white sign that says EXIT, a red heart "
        "and a blue star",
    }
    assert {question: told.get(question) for question in expected} == expected
    assert "what color is the star?" not in told
    assert "what shape is red?" not in told


def answers_to(scene: Scene) -> dict[str, str]:
    """Every question that chance brings up, and its answer."""
    rng, told = random.Random(3), {}
    for _ in range(3_000):
        for one in questions(scene, rng):
            told[one.question] = one.answer
    return told


def test_no_sign_is_said_so() -> None:
    scene = next(scene for scene in ALL if not signs(scene.things))
    one = ask("text", scene, random.Random(0))
    assert isinstance(one, Question)
    assert one.answer == "there is no sign"
    assert ask("sign_color", scene, random.Random(0)) is None


def test_spelling_varies_but_not_the_words() -> None:
    said = {spoken("is there a red star?", random.Random(i)) for i in range(50)}
    assert len(said) == 4
    assert {one.lower().rstrip("?") for one in said} == {"is there a red star"}
