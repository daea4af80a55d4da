"""Exact match by kind of question on held-out scenes, with a blind guess as a control.

A greedy answer is right if and only if each of its tokens is the most likely one after the right
tokens before it. So one packed forward scores all questions about a picture. Captions are also
generated and measured by token F1, since a caption with one wrong word is still useful.
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

SEED = 910_000_000  # training and validation use other seeds
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
    """A line of the table; shares are in 0..1."""

    set: str
    kind: str
    n: int
    exact: float
    low: float  # 95% interval of `exact`
    high: float
    blind: float  # the same questions with another picture's visual tokens


@dataclass(frozen=True)
class Captions:
    """The quality of generated captions."""

    set: str
    n: int
    f1: float
    agrees: float  # share of captions for which generation and scoring agree on exact match


class Model:
    """A checkpoint that answers with the packed forward or with `generate`."""

    def __init__(self, folder: Path, dtype: torch.dtype):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.whole: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
        self.packer = losses.Packer(self.processor.tokenizer, most_tokens=10_000)
        self.prefix = torch.tensor(self.packer.prefix)
        self.dtype = dtype

    def features(self, scenes: list[Scene]) -> Tensor:
        """Features [B, 576, D] of the scenes' pictures."""
        pixels = torch.stack([torch.from_numpy(patches(scene.image)) for scene in scenes])
        scaled = (pixels.float() / 127.5 - 1).to(self.dtype)
        return forward.tower(build.tower_of(self.whole), scaled)

    def right(self, features: Tensor, asked: list[list[Question]]) -> list[bool]:
        """True for each question that is answered exactly, picture after picture."""
        as_ids = self.packer.asked
        packed, _ = self.packer.lay(
            [[as_ids(q.kind, q.question, q.answer) for q in row] for row in asked]
        )
        where = torch.arange(GRID * GRID).expand(len(asked), -1)
        logits, _ = forward.answers(self.whole, features, where, packed, self.prefix)
        return losses.answered(logits, packed)[1].tolist()

    def generate(self, scenes: list[Scene], question: str) -> list[str]:
        """Greedy answers of transformers' generate to one question about each picture."""
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
        answers = ids[:, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode(answers, skip_special_tokens=True)


Score = tuple[str, bool, bool]  # kind; right; right about another picture
Part = tuple[int, int]  # (i, n): every n-th batch from i, so that processes can share a set


@torch.inference_mode()
def scored(model: Model, name: str, scenes: int, part: Part = (0, 1)) -> list[Score]:
    """Scores of a question of each kind that each of `scenes` pictures allows, for `part`."""
    scores: list[Score] = []
    for drawn in batches(name, scenes, part):
        asked = [list(questions(scene, random.Random(i))) for i, scene in drawn]
        features = model.features([scene for _, scene in drawn])
        right_answers = model.right(features, asked)
        blind = model.right(features.roll(1, dims=0), asked)
        flat = [(scene, q) for (_, scene), row in zip(drawn, asked, strict=True) for q in row]
        for (scene, question), *right in zip(flat, right_answers, blind, strict=True):
            scores += [(kind, right[0], right[1]) for kind in groups(scene, question)]
    return scores


def rows(name: str, scores: list[Score]) -> list[Row]:
    """The lines of a set: one for each kind."""
    marks: dict[str, list[tuple[bool, bool]]] = {}
    for kind, *right in scores:
        marks.setdefault(kind, []).append((right[0], right[1]))
    return [row(name, kind, results) for kind, results in marks.items()]


@torch.inference_mode()
def captioned(
    model: Model, name: str, scenes: int, part: Part = (0, 1)
) -> list[tuple[float, bool]]:
    """Token F1 of each picture's generated caption, and True if generation and scoring agree."""
    marks: list[tuple[float, bool]] = []
    for drawn in batches(name, scenes, part):
        pictures = [scene for _, scene in drawn]
        truth = [caption_of(scene) for scene in pictures]
        exactly = model.right(model.features(pictures), [[question] for question in truth])
        answers = model.generate(pictures, CAPTION)
        for answer, question, exact in zip(answers, truth, exactly, strict=True):
            marks.append((token_f1(answer, question.answer), (answer == question.answer) == exact))
    return marks


def captions(name: str, marks: list[tuple[float, bool]]) -> Captions:
    """The means of the results of `captioned`, for at least one picture."""
    f1, agrees = (sum(column) / len(marks) for column in zip(*marks, strict=True))
    return Captions(name, len(marks), f1, agrees)


def batches(name: str, scenes: int, part: Part = (0, 1)) -> Iterator[list[tuple[int, Scene]]]:
    """Batches of the held-out scenes of a part of a set, each with its number."""
    offset = SEED + 1_000_000 * list(SETS).index(name)
    first, step = part
    for start in range(BATCH * first, scenes, BATCH * step):
        numbers = range(start, min(start + BATCH, scenes))
        yield [(i, SETS[name](offset + i)) for i in numbers]


def caption_of(scene: Scene) -> Question:
    """The true caption as the answer to the question that `sts` uses for captions."""
    question = ask("caption", scene, random.Random(0))
    assert question is not None
    return Question("caption", CAPTION, question.answer)


def groups(scene: Scene, question: Question) -> list[str]:
    """The groups of a question: its kind, and for a sign's text its characters and width."""
    sign = next((thing for thing in scene.things if thing.text == question.answer), None)
    if question.kind != "text" or sign is None:
        return [question.kind] if question.kind != "text" else ["text", "text: no sign"]
    sort = "word" if sign.text in WORDS else "number" if sign.text.isdigit() else "letters"
    wide = sign.box[2] - sign.box[0] >= WIDE
    return ["text", f"text: {sort}", *([f"text: {sort}, wide sign"] if wide else [])]


def row(name: str, kind: str, results: list[tuple[bool, bool]]) -> Row:
    """The line of one kind: shares with Wilson's interval."""
    n = len(results)
    exact, blind = (sum(column) / n for column in zip(*results, strict=True))
    low, high = wilson(sum(right for right, _ in results), n)
    return Row(name, kind, n, exact, low, high, blind)


def table(rows: list[Row]) -> str:
    """The Markdown table, in per cent."""
    lines = [
        "| scenes | kind | n | exact match | 95% | another picture's tokens |",
        "|---|---|---:|---:|---|---:|",
    ]
    lines += [
        f"| {row.set} | {row.kind} | {row.n} | {100 * row.exact:.1f} "
        f"| {100 * row.low:.0f}-{100 * row.high:.0f} | {100 * row.blind:.1f} |"
        for row in sorted(rows, key=lambda row: (list(SETS).index(row.set), row.kind))
    ]
    return "\n".join(lines)
