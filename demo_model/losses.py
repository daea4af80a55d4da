"""Training losses: dense labels for the tower, answers for the language model."""

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
FIRST = {  # weights of the kinds while scenes have one shape: finding things comes before reading
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
OFTEN = {  # weights of the kinds later: colors are learned early, reading and counting late
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
AMONG = {"sign_color": 6.0}  # with several signs, since finding the right one takes reading
CELL = torch.tensor(  # [576]: the cell of each patch's center
    [cell(((i % GRID + 0.5) / GRID, (i // GRID + 0.5) / GRID)) for i in range(GRID * GRID)]
)

Often = Callable[[Things], dict[str, float]]  # the weight of each kind for these things


def early(things: Things) -> dict[str, float]:
    return FIRST


def later(things: Things) -> dict[str, float]:
    several = sum(thing.shape == "sign" for thing in things) > 1
    return OFTEN | AMONG if several else OFTEN


def dense(out: Tensor, labels: Tensor, whole: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss and accuracies of the readout `out` [B, N, 98] for `labels` [B, N, 10].

    `whole` [B, N] is True if all patches of a patch's thing are among the N patches. Only then its
    place, its length and a letter's index can be predicted.
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


def off_place(predicted: Tensor, centers: Tensor) -> Tensor:
    """Losses [n] of predicted places [n, 2] for `centers` [n, 2], as shares of the picture."""
    return F.smooth_l1_loss(predicted, centers * 4 - 2, beta=0.1, reduction="none").mean(1)


def pointed(points: Tensor, cells: Tensor, packed: dict[str, Tensor]) -> Tensor:
    """The loss of the places that are predicted from tokens.

    `points` [B, T, 2] and `cells` [B, T, CELLS * CELLS] are the predictions, `packed` the result of
    `Packer.lay`.
    """
    row, token = packed["pointing"].unbind(1)
    lost = off_place(points[row, token].float(), packed["points"]).sum() / max(1, len(row))
    row, token = packed["naming"].unbind(1)
    cell_loss = F.binary_cross_entropy_with_logits(
        cells[row, token].float(),
        packed["cells"],
        pos_weight=torch.tensor(8.0, device=cells.device),
        reduction="sum",
    )
    return lost + cell_loss / max(1, packed["cells"].numel())


def looked(half: Half, packed: dict[str, Tensor], where: Tensor) -> Tensor:
    """The attention loss: half-way through the layers, a token should attend to what it names.

    For each token it is the negative logarithm of the attention to the right patches, by the head
    with the most, as a share of the attention to the image (patches `where` [B, N]) and the prefix.
    """
    row, token = packed["naming"].unbind(1)
    shared = half.query.shape[2] - packed["ids"].shape[1]
    logits = half.query[:, :, shared:] @ half.key[:, :, :shared].mT  # [B, H, T, shared]
    logits = logits * half.query.shape[-1] ** -0.5
    shares = logits[row, :, token].float().log_softmax(-1)[..., -where.shape[1] :]  # [n, H, N]
    there = packed["cells"].gather(1, CELL.to(where.device)[where][row])  # [n, N]: 1 or 0
    attended = (shares + there.clamp(min=1e-9).log()[:, None]).logsumexp(-1).amax(1)
    return masked_mean(-attended, there.any(1))


@dataclass(frozen=True)
class Asked:
    """A question with its answer as ids, and hints on places for its tokens."""

    kind: str
    question: list[int]
    answer: list[int]
    hints: Hints = Hints()

    def __len__(self) -> int:
        return len(self.question) + len(self.answer) + 2


class Packer:
    """Packs several questions about an image into one sequence; no question sees another."""

    def __init__(
        self,
        tokens: Any,
        most_tokens: int,
        most_questions: int = 16,
        user: str = "<|user|>",
        assistant: str = "<|assistant|>",
    ):
        self.tokens = tokens
        self.most_tokens = most_tokens
        self.most_questions = most_questions
        self.answer = tokens.convert_tokens_to_ids(assistant)
        self.prefix = [tokens.bos_token_id, tokens.convert_tokens_to_ids(user)]
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        if text not in self._known and len(self._known) < 300_000:
            self._known[text] = self._encode(text)
        return self._known.get(text) or self._encode(text)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokens.encode(text, add_special_tokens=False)
        return ids

    def pack(
        self, rows: list[Things], rng: random.Random, often: Often
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Random questions about the things of each picture, as `lay` returns them."""
        return self.lay([self._row(things, rng, often) for things in rows])

    def lay(self, packs: list[list[Asked]]) -> tuple[dict[str, Tensor], list[str]]:
        """Tensors for `forward.answers`, and the kind of each question.

        Each question starts at the position after all visual tokens, so a packed question gives the
        same result as without packing.
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
            for number, asked in enumerate(pack):
                sequence = [*asked.question, self.answer, *asked.answer, self.tokens.eos_token_id]
                here = slice(at, at + len(sequence))
                ids[row, here] = torch.tensor(sequence)
                segment[row, here] = number
                start = len(self.prefix) + GRID * GRID
                positions[row, here] = torch.arange(start, start + len(sequence))
                predicts[row, at + len(asked.question) : at + len(sequence) - 1] = True
                targets += sequence[len(asked.question) + 1 :]
                # Long answers get less weight per token, so that short answers count enough.
                length = len(asked.answer)
                weights += [length**-0.7] * length + [0.3 * length**-0.7]
                question += [len(kinds)] * (length + 1)
                kinds.append(asked.kind)
                pointing += [(row, at + token) for token, _ in asked.hints.points]
                points += [point for _, point in asked.hints.points]
                naming += [(row, at + token) for token, _ in asked.hints.cells]
                cells += [marked(cell_numbers) for _, cell_numbers in asked.hints.cells]
                at += len(sequence)
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
        """A question and its answer as ids; with `things`, also hints for the tokens."""
        as_ids = Asked(kind, self.encode(question), self.encode(answer))
        if things is None:
            return as_ids
        return replace(as_ids, hints=hints(kind, question, answer, things, self._encode))

    def _row(self, things: Things, rng: random.Random, often: Often) -> list[Asked]:
        scene = Scene(None, tuple(things), None, None)  # type: ignore[arg-type]
        pack: list[Asked] = []
        seen, total = set(), 0
        weights = often(things)
        for kind in rng.choices(list(weights), list(weights.values()), k=3 * self.most_questions):
            question = ask(kind, scene, rng)
            if question is None or question.question in seen or len(pack) == self.most_questions:
                continue
            row = self.asked(kind, spoken(question.question, rng), question.answer, things)
            if total + len(row) > self.most_tokens:
                continue
            seen.add(question.question)
            total += len(row)
            pack.append(row)
        return pack


def marked(cells: frozenset[int]) -> Tensor:
    """A vector [CELLS * CELLS] with 1 in these cells, else 0."""
    return torch.zeros(CELLS * CELLS).index_fill_(
        0, torch.tensor(sorted(cells), dtype=torch.long), 1
    )


def answered(logits: Tensor, packed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The weighted loss, and True for each question whose tokens are all right [questions]."""
    lost = F.cross_entropy(logits.float(), packed["targets"], reduction="none")
    loss = (lost * packed["weights"]).sum() / packed["weights"].sum()
    wrong = (logits.argmax(-1) != packed["targets"]).long()
    errors = torch.zeros(int(packed["question"].max()) + 1, dtype=torch.long, device=wrong.device)
    return loss, errors.index_add(0, packed["question"], wrong) == 0
