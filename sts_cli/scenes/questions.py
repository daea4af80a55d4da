"""Questions about a drawn scene, each with exactly one right answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sts_cli.scenes import phrasings
from sts_cli.scenes.canvas import Thing
from sts_cli.scenes.drawing import Scene
from sts_cli.scenes.words import COLORS, SHAPES

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
NUMBERS = ("0", "1", "2", "3", "4", "5", "6")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its kind, and the only right answer."""

    kind: str
    question: str
    answer: str


def ask(kind: str, scene: Scene, rng: random.Random) -> Question | None:
    """A random question of this kind, or None if the scene allows none."""
    pair = KINDS[kind](scene.things, rng)
    return None if pair is None else Question(kind, *pair)


def questions(
    scene: Scene, rng: random.Random, kinds: Iterable[str] | None = None
) -> Iterator[Question]:
    """One question of each of these kinds (None: of all) that the scene allows."""
    for kind in KINDS if kinds is None else kinds:
        question = ask(kind, scene, rng)
        if question is not None:
            yield question


def spoken(question: str, rng: random.Random) -> str:
    """The question with random variations: a capital, British spelling, no question mark."""
    if rng.random() < 0.15:
        question = question.replace("color", "colour")
    if rng.random() < 0.3:
        question = question[0].upper() + question[1:]
    return question[:-1] if rng.random() < 0.2 else question


Pair = tuple[str, str] | None  # question and answer


def signs(things: tuple[Thing, ...]) -> list[Thing]:
    return [thing for thing in things if thing.shape == "sign"]


def article(word: str) -> str:
    return f"an {word}" if word[0] in "aeio" else f"a {word}"


def described(thing: Thing) -> str:
    """The name of a thing in captions."""
    says = f" that says {thing.text}" if thing.text else ""
    return f"{article(thing.color)} {thing.shape}{says}"


def from_left(things: Iterable[Thing]) -> list[Thing]:
    """The things from left to right, which is their order in captions."""
    return sorted(things, key=lambda thing: thing.center[0])


def name(thing: Thing, things: tuple[Thing, ...], rng: random.Random) -> str | None:
    """A name that fits this thing and no other, or None."""
    alike = [other for other in things if other.shape == thing.shape]
    if len(alike) == 1 and rng.random() < 0.5:
        return thing.shape
    if sum(other.color == thing.color for other in alike) == 1:
        return f"{thing.color} {thing.shape}"
    return None


def text(things: tuple[Thing, ...], rng: random.Random) -> Pair:
    shown = signs(things)
    if len(shown) == 1 or not shown:
        return rng.choice(phrasings.TEXT), shown[0].text if shown else "there is no sign"
    sign = rng.choice(shown)
    return rng.choice(phrasings.TEXT_OF).format(sign.color), sign.text


def sign_color(things: tuple[Thing, ...], rng: random.Random) -> Pair:
    shown = signs(things)
    if not shown:
        return None
    sign = rng.choice(shown)
    if len(shown) == 1:
        return rng.choice(phrasings.SIGN_COLOR), sign.color
    question = rng.choice(phrasings.SIGN_COLOR_OF).format(sign.text)
    return (question, sign.color) if sum(other.text == sign.text for other in shown) == 1 else None


def text_color(things: tuple[Thing, ...], rng: random.Random) -> Pair:
    shown = signs(things)
    if not shown:
        return None
    sign = rng.choice(shown)
    called = "sign" if len(shown) == 1 else f"{sign.color} sign"
    return rng.choice(phrasings.TEXT_COLOR).format(called), sign.text_color


def color(things: tuple[Thing, ...], rng: random.Random) -> Pair:
    single = [
        thing
        for thing in things
        if thing.shape != "sign" and sum(other.shape == thing.shape for other in things) == 1
    ]
    if not single:
        return None
    thing = rng.choice(single)
    return rng.choice(phrasings.COLOR).format(thing.shape), thing.color


def shape(things: tuple[Thing, ...], rng: random.Random) -> Pair:
    single = [
        thing
        for thing in things
        if thing.shape != "sign" and sum(other.color == thing.color for other in things) == 1
    ]
    if not single:
        return None
    thing = rng.choice(single)
    return rng.choice(phrasings.SHAPE).format(thing.color), thing.shape


def exist(things: tuple[Thing, ...], rng: random.Random) -> Pair:
    shapes = [thing for thing in things if thing.shape != "sign"]
    if rng.random() < 0.5 and shapes:
        thing = rng.choice(shapes)
        kind, tint = thing.shape, thing.color
    else:  # often nearly right: with the shape or the colour of a thing in the scene
        near = rng.choice(shapes) if shapes and rng.random() < 0.5 else None
        kind = near.shape if near and rng.random() < 0.5 else rng.choice(list(SHAPES))
        tint = near.color if near and kind != near.shape else rng.choice(list(COLORS))
    if rng.random() < 0.4:
        pattern, there = "{}", any(thing.shape == kind for thing in things)
    else:
        pattern = f"{tint} {{}}"
        there = any((thing.color, thing.shape) == (tint, kind) for thing in things)
    singular, plural = pattern.format(kind), pattern.format(SHAPES[kind])
    answer = "yes" if there else "no"
    if rng.random() < 0.15:
        forms = [form.format(singular) for form in phrasings.ABSENT]
        forms += [form.format(plural) for form in phrasings.ABSENT_MANY]
        return rng.choice(forms), "no" if there else "yes"
    forms = [form.format(article(singular)) for form in phrasings.EXIST]
    forms += [form.format(plural) for form in phrasings.EXIST_MANY]
    return rng.choice(forms), answer


def count(things: tuple[Thing, ...], rng: random.Random) -> Pair:
    shapes = [thing for thing in things if thing.shape != "sign"]
    if rng.random() < 0.4:
        return rng.choice(phrasings.COUNT).format("shapes"), NUMBERS[len(shapes)]
    present = [thing.shape for thing in shapes]
    kind = rng.choice(present) if present and rng.random() < 0.75 else rng.choice(list(SHAPES))
    return rng.choice(phrasings.COUNT).format(SHAPES[kind]), NUMBERS[present.count(kind)]


def relation(things: tuple[Thing, ...], rng: random.Random) -> Pair:
    if len(things) < 2:
        return None
    first, second = rng.sample(things, 2)
    names = name(first, things, rng), name(second, things, rng)
    dx = first.center[0] - second.center[0]
    dy = first.center[1] - second.center[1]
    if None in names or min(abs(dx), abs(dy)) > 0.6 * max(abs(dx), abs(dy)):
        return None
    if max(abs(dx), abs(dy)) < 0.12:
        return None
    side = ("left" if dx < 0 else "right") if abs(dx) > abs(dy) else "above" if dy < 0 else "below"
    if rng.random() < 0.5:
        return rng.choice(phrasings.RELATION).format(*names), side
    asked = side if rng.random() < 0.5 else OPPOSITE[side]
    beside = rng.choice((f"{asked} of", f"to the {asked} of"))
    words = asked if asked in ("above", "below") else beside
    return f"is the {names[0]} {words} the {names[1]}?", "yes" if asked == side else "no"


def place(things: tuple[Thing, ...], rng: random.Random) -> Pair:
    if not things:
        return None
    thing = rng.choice(things)
    called = name(thing, things, rng)
    if called is None:
        return None
    thirds = []
    for part in thing.center:
        if any(abs(part - border) < 0.04 for border in (1 / 3, 2 / 3)):
            return None
        thirds.append(int(part * 3))
    across = ("left", "", "right")[thirds[0]]
    down = ("top", "", "bottom")[thirds[1]]
    return rng.choice(phrasings.PLACE).format(called), f"{down} {across}".strip() or "center"


def caption(things: tuple[Thing, ...], rng: random.Random) -> Pair:
    question = rng.choice(phrasings.DESCRIBE)
    parts = [described(thing) for thing in from_left(things)]
    if not parts:
        return question, "nothing"
    return question, " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


KINDS: dict[str, Callable[[tuple[Thing, ...], random.Random], Pair]] = {
    "text": text,
    "sign_color": sign_color,
    "text_color": text_color,
    "color": color,
    "shape": shape,
    "exist": exist,
    "count": count,
    "relation": relation,
    "place": place,
    "caption": caption,
}
