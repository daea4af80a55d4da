"""What training minimises: dense labels for the tower, answers for the language model."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from demo_model.forward import Half
from demo_model.labels import GRID, HEADS
from demo_model.pointing import CELLS, Hints, Point, Things, cell, hints
from sts_cli.scenes.drawing import Scene
from sts_cli.scenes.questions import ask, spoken

DENSE = {
    "kind": 1.0,
    "color": 0.6,
    "letter": 3.0,
    "index": 1.0,
    "ink": 0.4,
    "length": 0.3,
    "place": 0.7,
    "center": 0.3,
}
FIRST = {  # how often each kind is asked while scenes hold one shape: first find things, then read
    "text": 3.0,
    "sign_color": 2.0,
    "text_color": 1.0,
    "color": 4.0,
    "shape": 4.0,
    "exist": 0.5,
    "count": 0.2,
    "relation": 0.2,
    "place": 1.0,
    "caption": 0.2,
}
OFTEN = {  # and later: colors are known early, reading and counting are not
    "text": 6.0,
    "sign_color": 0.8,
    "text_color": 0.6,
    "color": 0.8,
    "shape": 1.2,
    "exist": 2.0,
    "count": 4.0,
    "relation": 2.5,
    "place": 1.0,
    "caption": 3.0,
}
AMONG = {"sign_color": 6.0}  # where several signs hang: to find the one that says so takes reading
CELL = torch.tensor(  # [576]: of each patch's center
    [cell(((i % GRID + 0.5) / GRID, (i // GRID + 0.5) / GRID)) for i in range(GRID * GRID)]
)

Often = Callable[[Things], dict[str, float]]  # how often each kind is asked about these things


def early(things: Things) -> dict[str, float]:
    return FIRST


def later(things: Things) -> dict[str, float]:
    several = sum(one.shape == "sign" for one in things) > 1
    return OFTEN | AMONG if several else OFTEN


def dense(out: Tensor, labels: Tensor, whole: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss and accuracies of the readout `out` [B, N, 98] for `labels` [B, N, 10].

    `whole` [B, N] says that the thing at a patch lies wholly among the N patches: only then can
    its place, its length and a letter's index be known.
    """
    out, labels, whole = out.flatten(0, 1).float(), labels.flatten(0, 1), whole.flatten()
    parts = dict(zip(HEADS, out.split(list(HEADS.values()), dim=1), strict=True))
    thing, letter = labels[:, 0] > 0, labels[:, 2] > 0
    sign = labels[:, 5] > 0
    weight = torch.ones(HEADS["kind"], device=out.device)
    weight[0] = 0.5
    lost = {
        "kind": F.cross_entropy(parts["kind"], labels[:, 0], weight),
        "color": mean_cross_entropy(parts["color"], labels[:, 1], thing),
        "letter": mean_cross_entropy(parts["letter"], labels[:, 2], sign),
        "index": mean_cross_entropy(parts["index"], labels[:, 3], sign & whole),
        "ink": mean_cross_entropy(parts["ink"], labels[:, 4], sign),
        "length": mean_cross_entropy(parts["length"], labels[:, 5], sign & whole),
        "place": masked_mean(off_place(parts["place"], labels[:, 6:8] / 255), thing & whole),
        "center": F.binary_cross_entropy_with_logits(
            parts["center"][:, 0],
            labels[:, 8].float(),
            pos_weight=torch.tensor(8.0, device=out.device),
        ),
    }
    right = {
        "kind": share(parts["kind"].argmax(1) == labels[:, 0], thing),
        "color": share(parts["color"].argmax(1) == labels[:, 1], thing),
        "letter": share(parts["letter"].argmax(1) == labels[:, 2], letter),
        "index": share(parts["index"].argmax(1) == labels[:, 3], letter & whole),
    }
    total = torch.stack([DENSE[name] * value for name, value in lost.items()]).sum()
    return total, right


def mean_cross_entropy(logits: Tensor, labels: Tensor, where: Tensor) -> Tensor:
    return masked_mean(F.cross_entropy(logits, labels, reduction="none"), where)


def masked_mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)


def share(right: Tensor, where: Tensor) -> float:
    return float((right & where).sum() / where.sum().clamp(min=1))


def off_place(found: Tensor, centers: Tensor) -> Tensor:
    """[n]: how far readouts [n, 2] are from `centers` [n, 2], which are shares of the picture."""
    return F.smooth_l1_loss(found, centers * 4 - 2, beta=0.1, reduction="none").mean(1)


def pointed(points: Tensor, cells: Tensor, packed: dict[str, Tensor]) -> Tensor:
    """How wrong readouts of tokens are about places.

    `points` [B, T, 2] and `cells` [B, T, CELLS * CELLS] are the readouts, `packed` is what
    `Packer.lay` made.
    """
    row, token = packed["pointing"].unbind(1)
    lost = off_place(points[row, token].float(), packed["points"]).sum() / max(1, len(row))
    row, token = packed["naming"].unbind(1)
    found = F.binary_cross_entropy_with_logits(
        cells[row, token].float(),
        packed["cells"],
        pos_weight=torch.tensor(8.0, device=cells.device),
        reduction="sum",
    )
    return lost + found / max(1, packed["cells"].numel())


def looked(half: Half, packed: dict[str, Tensor], where: Tensor) -> Tensor:
    """How little tokens of questions look at what they name or spell, half-way through the layers.

    For each token the head that looks there most, as the negative logarithm of its share of what
    goes to the image, `where` [B, N], and to the tokens before it: one head has to find things.
    """
    row, token = packed["naming"].unbind(1)
    shared = half.query.shape[2] - packed["ids"].shape[1]
    logits = half.query[:, :, shared:] @ half.key[:, :, :shared].mT  # [B, H, T, shared]
    logits = logits * half.query.shape[-1] ** -0.5
    shares = logits[row, :, token].float().log_softmax(-1)[..., -where.shape[1] :]  # [n, H, N]
    there = packed["cells"].gather(1, CELL.to(where.device)[where][row])  # [n, N]: 1 or 0
    found = (shares + there.clamp(min=1e-9).log()[:, None]).logsumexp(-1).amax(1)
    return masked_mean(-found, there.any(1))


@dataclass(frozen=True)
class Asked:
    """A question with its answer as ids, and what its tokens should know of places."""

    kind: str
    question: list[int]
    answer: list[int]
    hints: Hints = Hints()

    def __len__(self) -> int:
        return len(self.question) + len(self.answer) + 2


class Packer:
    """Several questions about an image in one sequence, each blind to the others."""

    def __init__(self, tokens: Any, most_tokens: int, most_questions: int = 16):
        self.tokens = tokens
        self.most_tokens = most_tokens
        self.most_questions = most_questions
        self.answer = tokens.convert_tokens_to_ids("<|assistant|>")
        self.prefix = [tokens.bos_token_id, tokens.convert_tokens_to_ids("<|user|>")]
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        if text not in self._known and len(self._known) < 300_000:
            self._known[text] = self._encode(text)
        return self._known.get(text) or self._encode(text)

    def _encode(self, text: str) -> list[int]:
        found: list[int] = self.tokens.encode(text, add_special_tokens=False)
        return found

    def pack(
        self, rows: list[Things], rng: random.Random, often: Often
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Random questions about the things of each picture, laid out for `forward.answers`."""
        return self.lay([self._row(things, rng, often) for things in rows])

    def lay(self, packs: list[list[Asked]]) -> tuple[dict[str, Tensor], list[str]]:
        """Tensors for `forward.answers`, and the kind of each question.

        Each question starts at the position that follows all visual tokens, so that a packed
        question equals the same question alone.
        """
        longest = max(sum(map(len, pack)) for pack in packs)
        shape = len(packs), -(-longest // 8) * 8
        ids = torch.full(shape, self.tokens.pad_token_id)
        segment, positions = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
        predicts = torch.zeros(shape, dtype=torch.bool)
        targets, weights, question = [], [], []
        kinds: list[str] = []
        pointing: list[tuple[int, int]] = []
        points: list[Point] = []
        naming: list[tuple[int, int]] = []
        cells: list[Tensor] = []
        for row, pack in enumerate(packs):
            at = 0
            for number, one in enumerate(pack):
                every = [*one.question, self.answer, *one.answer, self.tokens.eos_token_id]
                here = slice(at, at + len(every))
                ids[row, here] = torch.tensor(every)
                segment[row, here] = number
                start = len(self.prefix) + GRID * GRID
                positions[row, here] = torch.arange(start, start + len(every))
                predicts[row, at + len(one.question) : at + len(every) - 1] = True
                targets += every[len(one.question) + 1 :]
                # For each answer, not for each token: short answers must not drown.
                length = len(one.answer)
                weights += [length**-0.7] * length + [0.3 * length**-0.7]
                question += [len(kinds)] * (length + 1)
                kinds.append(one.kind)
                pointing += [(row, at + token) for token, _ in one.hints.points]
                points += [point for _, point in one.hints.points]
                naming += [(row, at + token) for token, _ in one.hints.cells]
                cells += [marked(found) for _, found in one.hints.cells]
                at += len(every)
        return {
            "ids": ids,
            "segment": segment,
            "positions": positions,
            "predicts": predicts,
            "targets": torch.tensor(targets),
            "weights": torch.tensor(weights),
            "question": torch.tensor(question),
            "pointing": torch.tensor(pointing, dtype=torch.long).view(-1, 2),
            "points": torch.tensor(points).view(-1, 2),
            "naming": torch.tensor(naming, dtype=torch.long).view(-1, 2),
            "cells": torch.stack(cells) if cells else torch.zeros(0, CELLS * CELLS),
        }, kinds

    def asked(self, kind: str, question: str, answer: str, things: Things | None = None) -> Asked:
        """A question and its answer as ids, with hints for the tokens if `things` are given."""
        made = Asked(kind, self.encode(question), self.encode(answer))
        if things is None:
            return made
        return replace(made, hints=hints(kind, question, answer, things, self._encode))

    def _row(self, things: Things, rng: random.Random, often: Often) -> list[Asked]:
        scene = Scene(None, tuple(things), None, None)  # type: ignore[arg-type]
        found: list[Asked] = []
        seen, total = set(), 0
        weights = often(things)
        for kind in rng.choices(list(weights), list(weights.values()), k=3 * self.most_questions):
            one = ask(kind, scene, rng)
            if one is None or one.question in seen or len(found) == self.most_questions:
                continue
            row = self.asked(kind, spoken(one.question, rng), one.answer, things)
            if total + len(row) > self.most_tokens:
                continue
            seen.add(one.question)
            total += len(row)
            found.append(row)
        return found


def marked(cells: frozenset[int]) -> Tensor:
    """[CELLS * CELLS]: 1 in these cells."""
    return torch.zeros(CELLS * CELLS).index_fill_(
        0, torch.tensor(sorted(cells), dtype=torch.long), 1
    )


def answered(logits: Tensor, packed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The weighted loss, and for each question whether all its tokens are right [questions]."""
    lost = F.cross_entropy(logits.float(), packed["targets"], reduction="none")
    loss = (lost * packed["weights"]).sum() / packed["weights"].sum()
    wrong = (logits.argmax(-1) != packed["targets"]).long()
    errors = torch.zeros(int(packed["question"].max()) + 1, dtype=torch.long, device=wrong.device)
    return loss, errors.index_add(0, packed["question"], wrong) == 0
