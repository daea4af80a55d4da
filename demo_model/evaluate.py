"""Exact match by kind of question on held-out scenes, beside what guessing without seeing gives.

A greedy answer is exactly right if and only if each of its tokens is the likeliest one after the
right tokens before it, so one packed forward scores all questions about a picture. Captions are
also generated, since a caption with one wrong word still says much: their measure is token F1.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demo_model import build, forward, losses
from demo_model.elsewhere import flat, room
from demo_model.labels import GRID, patches
from sts_cli.answering.agreement import token_f1
from sts_cli.evaluation.table import wilson
from sts_cli.inputs.rows import CAPTION
from sts_cli.scenes.drawing import HELD_OUT_FONTS, Scene, draw
from sts_cli.scenes.questions import Question, ask, questions
from sts_cli.scenes.words import WORDS

SEED = 910_000_000  # neither training nor validation draws from here
SETS: dict[str, Callable[[int], Scene]] = {
    "easy": lambda seed: draw(seed, 0.0),
    "hard": lambda seed: draw(seed, 1.0),
    "other-fonts": lambda seed: draw(seed, 0.0, fonts=HELD_OUT_FONTS),
    "flat": flat,
    "room": room,
}
BATCH = 8
WIDE = 0.25  # of the picture's width: signs that anyone can read


@dataclass(frozen=True)
class Row:
    """One line of the table; shares are 0..1."""

    set: str
    kind: str
    n: int
    exact: float
    low: float  # 95% interval of `exact`
    high: float
    blind: float  # the same questions with another picture's visual tokens


@dataclass(frozen=True)
class Captions:
    """Generated captions against the true ones."""

    set: str
    n: int
    f1: float
    agrees: float  # share where generated and scored exactness are the same


class Model:
    """A checkpoint in a folder, asked by the packed forward or by `generate`."""

    def __init__(self, folder: Path, dtype: torch.dtype):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.whole: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
        self.packer = losses.Packer(self.processor.tokenizer, most_tokens=10_000)
        self.prefix = torch.tensor(self.packer.prefix)
        self.dtype = dtype

    def features(self, scenes: list[Scene]) -> Tensor:
        """[B, 576, D] of whole pictures."""
        pixels = torch.stack([torch.from_numpy(patches(scene.image)) for scene in scenes])
        scaled = (pixels.float() / 127.5 - 1).to(self.dtype)
        return forward.tower(build.tower_of(self.whole), scaled)

    def right(self, features: Tensor, asked: list[list[Question]]) -> list[bool]:
        """Whether each question, picture after picture, is answered exactly."""
        known = self.packer.asked
        packed, _ = self.packer.lay(
            [[known(one.kind, one.question, one.answer) for one in row] for row in asked]
        )
        where = torch.arange(GRID * GRID).expand(len(asked), -1)
        logits, _ = forward.answers(self.whole, features, where, packed, self.prefix)
        return losses.answered(logits, packed)[1].tolist()

    def generate(self, scenes: list[Scene], question: str) -> list[str]:
        """Greedy answers to one question about each picture, as any user of transformers gets."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.processor(
            images=[scene.image for scene in scenes],
            text=[prompt] * len(scenes),
            return_tensors="pt",
        )
        inputs["pixel_values"] = inputs["pixel_values"].to(self.dtype)
        ids = self.whole.generate(**inputs, do_sample=False)
        said = ids[:, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode(said, skip_special_tokens=True)


Score = tuple[str, bool, bool]  # kind; right; right about another picture
Part = tuple[int, int]  # (i, n): every n-th batch from i, so that processes can share a set


@torch.inference_mode()
def scored(model: Model, name: str, scenes: int, part: Part = (0, 1)) -> list[Score]:
    """What the table counts: of a part of the set, a question of each kind that each of `scenes`
    pictures allows."""
    found: list[Score] = []
    for drawn in batches(name, scenes, part):
        asked = [list(questions(scene, random.Random(i))) for i, scene in drawn]
        features = model.features([scene for _, scene in drawn])
        seen = model.right(features, asked)
        blind = model.right(features.roll(1, dims=0), asked)
        flat = [(scene, one) for (_, scene), row in zip(drawn, asked, strict=True) for one in row]
        for (scene, one), *right in zip(flat, seen, blind, strict=True):
            found += [(kind, right[0], right[1]) for kind in groups(scene, one)]
    return found


def rows(name: str, scores: list[Score]) -> list[Row]:
    """One line for each kind."""
    marks: dict[str, list[tuple[bool, bool]]] = {}
    for kind, *right in scores:
        marks.setdefault(kind, []).append((right[0], right[1]))
    return [row(name, kind, found) for kind, found in marks.items()]


@torch.inference_mode()
def captioned(
    model: Model, name: str, scenes: int, part: Part = (0, 1)
) -> list[tuple[float, bool]]:
    """For each picture of a part of the set the token F1 of its generated caption, and whether
    generating confirms the scoring."""
    found: list[tuple[float, bool]] = []
    for drawn in batches(name, scenes, part):
        pictures = [scene for _, scene in drawn]
        truth = [caption_of(scene) for scene in pictures]
        exactly = model.right(model.features(pictures), [[one] for one in truth])
        said = model.generate(pictures, CAPTION)
        for answer, one, exact in zip(said, truth, exactly, strict=True):
            found.append((token_f1(answer, one.answer), (answer == one.answer) == exact))
    return found


def captions(name: str, found: list[tuple[float, bool]]) -> Captions:
    """The means of what `captioned` found of at least one picture."""
    f1, agrees = (sum(column) / len(found) for column in zip(*found, strict=True))
    return Captions(name, len(found), f1, agrees)


def batches(name: str, scenes: int, part: Part = (0, 1)) -> Iterator[list[tuple[int, Scene]]]:
    """The held-out scenes of a part of a set with their numbers, a few at a time."""
    offset = SEED + 1_000_000 * list(SETS).index(name)
    first, step = part
    for start in range(BATCH * first, scenes, BATCH * step):
        numbers = range(start, min(start + BATCH, scenes))
        yield [(i, SETS[name](offset + i)) for i in numbers]


def caption_of(scene: Scene) -> Question:
    """The true caption, asked for as the tool asks."""
    found = ask("caption", scene, random.Random(0))
    assert found is not None
    return Question("caption", CAPTION, found.answer)


def groups(scene: Scene, one: Question) -> list[str]:
    """The kind of a question; for a sign's text also what it consists of and how wide it is."""
    sign = next((thing for thing in scene.things if thing.text == one.answer), None)
    if one.kind != "text" or sign is None:
        return [one.kind] if one.kind != "text" else ["text", "text: no sign"]
    sort = "word" if sign.text in WORDS else "number" if sign.text.isdigit() else "letters"
    wide = sign.box[2] - sign.box[0] >= WIDE
    return ["text", f"text: {sort}", *([f"text: {sort}, wide sign"] if wide else [])]


def row(name: str, kind: str, marks: list[tuple[bool, bool]]) -> Row:
    """Shares, and Wilson's interval."""
    n = len(marks)
    exact, blind = (sum(column) / n for column in zip(*marks, strict=True))
    low, high = wilson(sum(right for right, _ in marks), n)
    return Row(name, kind, n, exact, low, high, blind)


def table(rows: list[Row]) -> str:
    """Markdown, in per cent."""
    lines = [
        "| scenes | kind | n | exact match | 95% | another picture's tokens |",
        "|---|---|---:|---:|---|---:|",
    ]
    lines += [
        f"| {one.set} | {one.kind} | {one.n} | {100 * one.exact:.1f} "
        f"| {100 * one.low:.0f}-{100 * one.high:.0f} | {100 * one.blind:.1f} |"
        for one in sorted(rows, key=lambda one: (list(SETS).index(one.set), one.kind))
    ]
    return "\n".join(lines)
