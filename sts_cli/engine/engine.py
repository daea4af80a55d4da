"""The engine: from prompts to generated tokens, with visual tokens pruned on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import Cache

from sts_cli.engine.attention import Observer
from sts_cli.engine.clock import Clock
from sts_cli.engine.penalties import penalties
from sts_cli.engine.selection import (
    Choices,
    semantics_mask,
    semantics_sizes,
    structure_mask,
    structure_sizes,
    visual_counts,
    visual_places,
)
from sts_cli.engine.tokens import Keys, Tokens, text
from sts_cli.errors import ProfileError
from sts_cli.families import family_of
from sts_cli.families.default import Encoded, Pixels, Prompt
from sts_cli.profile import Profile

if TYPE_CHECKING:
    from sts_cli.loading import Loaded

MAX_NEW_TOKENS = 128


Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Prefill:
    """A batch of B prompts after prefill: what decoding goes on from, and what was kept."""

    logits: Tensor  # [B, V]; of each prompt's first new token
    cache: Cache
    spans: tuple[range, range]  # layers below and above the cut
    keys: tuple[Keys, Keys]  # what either span's cache holds
    positions: Tensor  # [P, B]; of each prompt's first new token
    visual: list[int]
    places: tuple[list[Tensor], list[Tensor]]  # [N, 3] for each row; see `visual_places`
    text: list[int]
    select: float  # seconds


@dataclass(frozen=True)
class Generation:
    """What became of one prompt. Seconds are those of its whole batch."""

    ids: tuple[int, ...]  # generated, without the token that ended them
    finish: Finish
    visual: int
    structure: int
    semantics: int
    places: tuple[Tensor, Tensor]  # [structure, 3], [semantics, 3]; image, row, column of the kept
    text: int  # prompt tokens that are not visual
    select: float
    prefill: float
    decode: float


class Engine:
    """A loaded model, ready to answer under any profile."""

    def __init__(self, loaded: Loaded):
        model = loaded.model
        self.name = loaded.name
        self.family = family_of(model, loaded.processor)
        self.decoder = self.family.decoder
        self.layers = len(self.decoder.layers)
        self.clock = Clock(model.device)
        self.penalties = penalties(model.generation_config)
        ends = model.generation_config.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self.max_new_tokens = model.generation_config.max_new_tokens or MAX_NEW_TOKENS

    def check(self, profile: Profile) -> None:
        """Raise ProfileError for a profile that this model cannot honour."""
        if profile.semantics is not None and profile.cut(self.layers) >= self.layers:
            raise ProfileError(
                f"Profile '{profile.name}': depth {profile.semantics.depth:g} leaves none of the "
                f"{self.layers} layers of '{self.name}' after the cut. "
                f"Use a depth below {(self.layers - 0.5) / self.layers:.2f}."
            )

    @torch.inference_mode()
    def encode(self, pixels: Sequence[Pixels]) -> tuple[list[Encoded], float]:
        """The images' visual tokens, and the seconds that took."""
        started = self.clock()
        encoded = self.family.encode(pixels) if pixels else []
        return encoded, self.clock() - started

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        profile: Profile,
        *,
        max_new_tokens: int | None = None,
        choices: Choices | None = None,
        on_ids: Callable[[Sequence[int]], None] | None = None,
    ) -> list[Generation]:
        """Answer a batch of prompts greedily. `on_ids` hears the first prompt's ids as they come.

        Stage 1 runs before the language model, stage 2 after its first `profile.cut` layers; the
        layers below and above the cut hold different tokens in their caches from then on.
        """
        started = self.clock()
        state = self._prefill(prompts, profile, choices or Choices())
        prefilled = self.clock()
        done = self._decode(prompts, state, max_new_tokens or self.max_new_tokens, on_ids)
        decode = self.clock() - prefilled
        return [
            Generation(
                ids=tuple(ids),
                finish=finish,
                visual=state.visual[row],
                structure=len(state.places[0][row]),
                semantics=len(state.places[1][row]),
                places=(state.places[0][row], state.places[1][row]),
                text=state.text[row],
                select=state.select,
                prefill=prefilled - started - state.select,
                decode=decode,
            )
            for row, (ids, finish) in enumerate(done)
        ]

    def _prefill(self, prompts: Sequence[Prompt], profile: Profile, choices: Choices) -> Prefill:
        """Embed, prune, lower layers, prune, upper layers: up to the first token's logits."""
        cut = profile.cut(self.layers)
        lower, upper = range(cut), range(cut, self.layers)
        tokens = self.family.embed(prompts)
        visual = visual_counts(tokens)
        text = (tokens.mask & ~tokens.visual).sum(1).tolist()
        positions = tokens.positions.amax((0, 2)) + 1  # [B]; of the unpruned prompt

        selecting = self.clock()
        if profile.structure is not None:
            keep = structure_mask(tokens, prompts, profile.structure, choices)
            if profile.attention == "proportional":
                tokens = structure_sizes(tokens, prompts, profile.structure, choices)
            tokens = tokens.keep(keep)
        select = self.clock() - selecting
        structure, lower_keys = visual_places(tokens), tokens.keys

        cache = self.decoder.cache()
        if profile.semantics is None:
            tokens = self.decoder.run(tokens, lower, cache)
        else:
            observer = self._observer(tokens, profile.semantics.options)
            tokens = self.decoder.run(tokens, lower, cache, observer=observer)
            selecting = self.clock()
            counts = [[len(image.features) for image in prompt.images] for prompt in prompts]
            keep = semantics_mask(tokens, observer.found(), counts, profile.semantics)
            if profile.attention == "proportional":
                tokens = semantics_sizes(tokens, keep)
            tokens = tokens.keep(keep)
            select += observer.seconds + self.clock() - selecting
        semantics, upper_keys = visual_places(tokens), tokens.keys
        tokens = self.decoder.run(tokens, upper, cache)
        return Prefill(
            logits=self.family.logits(tokens.hidden),
            cache=cache,
            spans=(lower, upper),
            keys=(lower_keys, upper_keys),
            positions=positions.expand(len(tokens.positions), -1),
            visual=visual,
            places=(structure, semantics),
            text=text,
            select=select,
        )

    def _observer(self, tokens: Tokens, options: Any) -> Observer:
        """Watches the rows of the instruction: all of its words, or the last one.

        A prompt without words after its image is watched at its last token.
        """
        rows = tokens.instruction
        if options.get("rows") == "last":
            rows = torch.zeros_like(rows)
        rows[:, -1] |= ~rows.any(1)  # prompts are packed right: the last token is a real one
        return Observer(rows, options.get("heads", "mean"), self.clock)

    def _decode(
        self,
        prompts: Sequence[Prompt],
        state: Prefill,
        limit: int,
        on_ids: Callable[[Sequence[int]], None] | None,
    ) -> list[tuple[list[int], Finish]]:
        """Greedy decoding; a row that has finished leaves the batch and its cache."""
        answers: list[list[int]] = [[] for _ in prompts]
        finish: list[Finish] = ["length" for _ in prompts]
        rows = list(range(len(prompts)))
        logits, positions, keys = state.logits, state.positions, list(state.keys)
        while True:
            if self.penalties:
                logits = self._penalise(logits, [[*prompts[r].ids, *answers[r]] for r in rows])
            best = logits.argmax(-1)  # [B]
            stay: list[int] = []
            for index, (row, token) in enumerate(zip(rows, best.tolist(), strict=True)):
                if token in self.ends:
                    finish[row] = "stop"
                    continue
                answers[row].append(token)
                if row == 0 and on_ids is not None:
                    on_ids(answers[row])
                if len(answers[row]) < limit:
                    stay.append(index)
            if not stay:
                return list(zip(answers, finish, strict=True))
            if len(stay) < len(rows):
                kept = torch.tensor(stay, device=best.device)
                state.cache.batch_select_indices(kept)
                keys = [held.rows(kept) for held in keys]
                best, positions = best[kept], positions[:, kept]
                rows = [rows[i] for i in stay]
            tokens = text(self.family.embedding(best[:, None]), positions)
            for number, span in enumerate(state.spans):
                keys[number] = keys[number].followed(tokens.mask)
                tokens = self.decoder.run(tokens, span, state.cache, keys[number])
            logits = self.family.logits(tokens.hidden)
            positions = positions + 1

    def _penalise(self, logits: Tensor, histories: list[list[int]]) -> Tensor:
        """The logits after the model's own penalties, which look at each row's own tokens."""
        return torch.cat(
            [
                self.penalties(torch.tensor([history], device=logits.device), row[None])
                for history, row in zip(histories, logits.float(), strict=True)
            ]
        )
