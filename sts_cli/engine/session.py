"""Greedy decoding of a batch whose rows come and go."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sts_cli.decoding import Cache
from sts_cli.decoding.tokens import Tokens
from sts_cli.engine.choosing_images import Choices
from sts_cli.engine.cutting import Counts
from sts_cli.engine.looks import Glimpse, Looks, looks_at
from sts_cli.engine.places import kept_of
from sts_cli.families.default import Prompt
from sts_cli.profile import Profile
from sts_cli.records import Certainty, KeptTokens, Look

if TYPE_CHECKING:
    from sts_cli.engine.engine import Engine

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Prefill:
    """A batch of B prompts after prefill: what decoding goes on from, and what was kept."""

    logits: Tensor  # [B, V]; of each prompt's first new token
    cache: Cache
    spans: tuple[range, ...]  # layers that hold the same tokens
    positions: Tensor  # [P, B]; of each prompt's first new token
    left: list[Counts]  # visual tokens of each image of each row: all, then after each cut
    seen: list[Tokens]  # the tokens at those moments, if places were asked for
    glimpses: dict[int, list[Glimpse]]  # of the rows that are looked at, at each cut
    select: float  # seconds


@dataclass(frozen=True)
class Generation:
    """The answer to one prompt.

    Of `generate`, the seconds are those of the whole batch. Of a session, they are the row's own
    share: of the prefill it was in, and of each step it took part in, divided by their rows.
    """

    ids: tuple[int, ...]  # generated, without the token that ended them
    finish: Finish
    visual: int
    left: tuple[int, ...]  # visual tokens after each cut
    kept: tuple[KeptTokens, ...] | None  # of each image, if places were asked for
    looks: tuple[Look, ...]  # after each cut; of a run's first few images
    text: int  # prompt tokens that are not visual
    select: float
    prefill: float
    decode: float
    rows: int  # the most rows that it was computed with
    certainty: Certainty


@dataclass(eq=False)
class Row:
    """A prompt while it is answered."""

    number: int
    prompt: Prompt
    left: tuple[int, ...]
    kept: tuple[KeptTokens, ...] | None
    looks: tuple[Look, ...]
    select: float
    prefill: float
    rows: int
    decode: float = 0.0
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    logs: list[float] = field(default_factory=list)  # log probabilities of the chosen tokens
    margin: float = 0.0  # of the first token

    def generation(self) -> Generation:
        return Generation(
            ids=tuple(self.ids),
            finish=self.finish or "length",
            visual=self.prompt.visual,
            left=self.left,
            kept=self.kept,
            looks=self.looks,
            text=self.prompt.text,
            select=self.select,
            prefill=self.prefill,
            decode=self.decode,
            rows=self.rows,
            certainty=Certainty(math.exp(sum(self.logs) / len(self.logs)), self.margin),
        )


Finished = list[tuple[int, Generation]]  # with the row's number, in the order of admission


class Session:
    """Rows under one profile, decoded step by step; between two steps, others may join them.

    A row that has finished leaves the batch and its cache at once. A join of caches costs time (in
    OpenVINO as much as several steps): compare `idle` to `joining` before. After an
    exception the session cannot go on.
    """

    def __init__(
        self,
        engine: Engine,
        profile: Profile,
        limit: int,
        choices: Choices,
        places: bool,
        looks: Looks | None,
        on_ids: Callable[[Sequence[int]], None] | None,
    ):
        self.engine, self.profile, self.limit = engine, profile, limit
        self.choices, self.places, self.looks, self.on_ids = choices, places, looks, on_ids
        self.rows: list[Row] = []
        self.admitted = 0
        self.joining = 0.0  # seconds of the last join of caches
        self.idle = 0.0  # seconds that free places have cost since then
        self._most = 0  # rows at once
        self._cache: Cache | None = None  # of all rows
        self._spans: tuple[range, ...] = ()
        self._ids = self._positions = torch.empty(0)  # [B], [P, B]; of each row's last token

    @torch.inference_mode()
    def admit(self, prompts: Sequence[Prompt]) -> Finished:
        """Prefill more rows and choose their first tokens; returns those that end with it."""
        clock = self.engine.clock
        started = clock()
        state = self.engine.prefill(
            prompts,
            self.profile,
            limit=max(one.limit or self.limit for one in prompts),
            choices=self.choices,
            places=self.places,
            looks=self.looks.rows(prompts) if self.looks and self.profile.cuts else (),
        )
        prefilled = clock()
        kept = kept_of(prompts, state.seen) if self.places else [None] * len(prompts)
        looks = {row: looks_at(prompts[row], cuts) for row, cuts in state.glimpses.items()}
        rows = [
            Row(
                number=self.admitted + index,
                prompt=prompt,
                left=tuple(sum(counts[index]) for counts in state.left[1:]),
                kept=kept[index],
                looks=looks.get(index, ()),
                select=state.select / len(prompts),
                prefill=(prefilled - started - state.select) / len(prompts),
                rows=len(prompts),
            )
            for index, prompt in enumerate(prompts)
        ]
        self.admitted += len(rows)
        choosing = clock()
        going, ids, positions = self._choose(rows, state.logits, state.positions, state.cache)
        chosen = clock()
        if self._cache is None:
            self.rows, self._ids, self._positions = going, ids, positions
            self._cache, self._spans = state.cache, state.spans
        elif going:
            self._cache.join(state.cache)
            self.rows = [*self.rows, *going]
            self._ids = torch.cat([self._ids, ids])
            self._positions = torch.cat([self._positions, positions], dim=1)
            self.joining = clock() - chosen
        self.idle, self._most = 0.0, max(self._most, len(self.rows))
        return self._finished(rows, clock() - choosing)

    @torch.inference_mode()
    def step(self) -> Finished:
        """The next token of each row; returns the rows that end with it."""
        assert self._cache is not None
        started, rows = self.engine.clock(), self.rows
        logits = self.engine.step(self._ids, self._positions, self._spans, self._cache)
        self.rows, self._ids, self._positions = self._choose(
            rows, logits, self._positions + 1, self._cache
        )
        seconds = self.engine.clock() - started
        self.idle += seconds * (1 - len(self.rows) / self._most)
        return self._finished(rows, seconds)

    def _finished(self, rows: Sequence[Row], seconds: float) -> Finished:
        """The rows that are done, after each got its share of the seconds of a step."""
        for row in rows:
            row.decode += seconds / len(rows)
            row.rows = max(row.rows, len(rows))
        if not self.rows:
            self._cache = None
        return [(row.number, row.generation()) for row in rows if row.finish is not None]

    def _choose(
        self, rows: list[Row], logits: Tensor, positions: Tensor, cache: Cache
    ) -> tuple[list[Row], Tensor, Tensor]:
        """Add a token to each row. Returns the rows that go on, their tokens and positions."""
        if self.engine.penalties:
            logits = self._penalise(logits, [[*row.prompt.ids, *row.ids] for row in rows])
        best = logits.argmax(-1)  # [B]
        first = not rows[0].logs
        for row, (token, log, margin) in zip(rows, told(logits, best, first), strict=True):
            row.margin = margin if first else row.margin
            row.logs.append(log)
            self._append(row, int(token))
        stay = [index for index, row in enumerate(rows) if row.finish is None]
        if 0 < len(stay) < len(rows):
            kept = torch.tensor(stay, device=best.device)
            cache.keep(kept)
            best, positions = best[kept], positions[:, kept]
        return [rows[index] for index in stay], best, positions

    def _append(self, row: Row, token: int) -> None:
        """Add a token to a row, and say if that ends it."""
        if token in self.engine.ends:
            row.finish = "stop"
            return
        row.ids.append(token)
        if row.number == 0 and self.on_ids is not None:
            self.on_ids(row.ids)
        stops = self.engine.stop_strings
        if stops and stops.end(row.prompt.ids, row.ids):
            row.finish = "stop"
        elif len(row.ids) >= (row.prompt.limit or self.limit):
            row.finish = "length"

    def _penalise(self, logits: Tensor, histories: list[list[int]]) -> Tensor:
        """The logits after the model's own penalties, which look at each row's own tokens."""
        return torch.cat(
            [
                self.engine.penalties(torch.tensor([history], device=logits.device), row[None])
                for history, row in zip(histories, logits.float(), strict=True)
            ]
        )


def told(logits: Tensor, best: Tensor, first: bool) -> list[list[float]]:
    """Each row's chosen token and its log probability; of a `first` token also its margin.

    `logits` is [B, V], `best` [B] their largest. All come in one wait for the device; float32
    holds every id below 2^24.
    """
    logits = logits.float()
    log = logits.gather(-1, best[:, None])[:, 0] - logits.logsumexp(-1)
    margin = torch.zeros_like(log)
    if first:
        top, second = logits.topk(2).values.unbind(-1)
        margin = log.exp() * (1 - (second - top).exp())
    found: list[list[float]] = torch.stack([best.float(), log, margin], dim=-1).tolist()
    return found
