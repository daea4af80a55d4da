"""The engine: from prompts to generated tokens, with visual tokens pruned on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sts_cli import pruning
from sts_cli.decoding import Cache, Decoder, Watch, next_logits
from sts_cli.decoding.static import StaticDecoder
from sts_cli.decoding.tokens import Tokens, text_tokens
from sts_cli.decoding.torch import TorchDecoder
from sts_cli.engine.choosing import Choices
from sts_cli.engine.clock import Clock
from sts_cli.engine.cutting import Asked, Counts, cut_tokens
from sts_cli.engine.places import kept_of
from sts_cli.engine.proof import prove
from sts_cli.engine.settings import StopStrings, check_settings, end_tokens, penalties
from sts_cli.errors import ProfileError
from sts_cli.families import adapter, tested
from sts_cli.families.default import Encoded, Pixels, Prompt
from sts_cli.profile import Cut, Profile
from sts_cli.records import KeptTokens

if TYPE_CHECKING:
    from sts_cli.loading.model import Loaded

MAX_NEW_TOKENS = 128

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
    select: float  # seconds


@dataclass(frozen=True)
class Generation:
    """What became of one prompt. Seconds are those of its whole batch."""

    ids: tuple[int, ...]  # generated, without the token that ended them
    finish: Finish
    visual: int
    left: tuple[int, ...]  # visual tokens after each cut
    kept: tuple[KeptTokens, ...] | None  # of each image, if places were asked for
    text: int  # prompt tokens that are not visual
    select: float
    prefill: float
    decode: float


class Engine:
    """A loaded model, ready to answer under any profile."""

    def __init__(self, loaded: Loaded, decoder: Decoder[Any] | None = None, encoder: Any = None):
        """`decoder` runs the layers, `encoder` the vision tower; without them, PyTorch does.

        A family that no test covers is held against its own `generate` first; raises ModelError.
        """
        model = loaded.model
        self.name = loaded.name
        self.family = adapter(model, loaded.processor, encoder)
        self.decoder: Decoder[Any] = decoder or decoder_for(model)
        self.layers = self.decoder.layers
        self.clock = Clock(model.device)
        settings = model.generation_config
        check_settings(settings)
        self.penalties = penalties(settings)
        self.ends = end_tokens(settings)
        stops = settings.stop_strings
        self.stop_strings = StopStrings(self.family.tokenizer, stops) if stops else None
        self.max_new_tokens = settings.max_new_tokens or MAX_NEW_TOKENS
        vision = getattr(getattr(model.config, "vision_config", None), "model_type", None)
        if not tested(model.config.model_type, model.get_decoder().config.model_type, vision):
            prove(self.family, self.decoder)

    def check(self, profile: Profile) -> None:
        """Raise ProfileError for a profile that this model cannot honour."""
        stops = profile.stops(self.layers)
        for cut, stop in zip(profile.cuts, stops, strict=True):
            if stop >= self.layers:
                raise ProfileError(
                    f"Profile '{profile.name}': depth {cut.depth:g} leaves none of the "
                    f"{self.layers} layers of '{self.name}' after the cut. "
                    f"Use a depth below {(self.layers - 0.5) / self.layers:.2f}."
                )
        for (one, other), (first, second) in zip(
            pairwise(profile.cuts), pairwise(stops), strict=True
        ):
            if first == second:
                raise ProfileError(
                    f"Profile '{profile.name}': depths {one.depth:g} and {other.depth:g} are both "
                    f"after layer {first} of the {self.layers} layers of '{self.name}'. Set them "
                    "further apart, or leave one cut out."
                )

    def prepare(self, profile: Profile) -> None:
        """Make ready to answer under a profile, so that the first question need not wait."""
        self.decoder.prepare(*(span for _, span, _ in profile.steps(self.layers) if span))

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
        places: bool = False,
        on_ids: Callable[[Sequence[int]], None] | None = None,
    ) -> list[Generation]:
        """Answer a batch of prompts greedily.

        `choices` remembers what was chosen of images before; `places` asks where the kept tokens
        are; `on_ids` hears the first prompt's ids as they come.
        """
        started = self.clock()
        limit = max_new_tokens or self.max_new_tokens
        state = self._prefill(prompts, profile, limit, choices or Choices(), places)
        prefilled = self.clock()
        done = self._decode(prompts, state, limit, on_ids)
        decode = self.clock() - prefilled
        kept = kept_of(prompts, state.seen, state.left) if places else [None] * len(prompts)
        return [
            Generation(
                ids=tuple(ids),
                finish=finish,
                visual=prompt.visual,
                left=tuple(sum(counts[row]) for counts in state.left[1:]),
                kept=kept[row],
                text=len(prompt.ids) - prompt.visual,
                select=state.select,
                prefill=prefilled - started - state.select,
                decode=decode,
            )
            for row, (prompt, (ids, finish)) in enumerate(zip(prompts, done, strict=True))
        ]

    def _prefill(
        self,
        prompts: Sequence[Prompt],
        profile: Profile,
        limit: int,
        choices: Choices,
        places: bool,
    ) -> Prefill:
        """Cut, run the layers behind the cut, next: up to the first token's logits."""
        tokens = self.family.embed(prompts)
        words = [prompt.words(self.family.image_token_id) for prompt in prompts]
        asked = Asked(prompts, words, profile.attention == "proportional")
        positions = tokens.positions.amax((0, 2)) + 1  # [B]; of the unpruned prompt
        axes = len(tokens.positions)
        cache = self.decoder.cache(len(prompts), limit)
        left: list[Counts] = [[[len(one.features) for one in prompt.images] for prompt in prompts]]
        seen, spans, scores, select = [tokens] if places else [], [], None, 0.0
        for cut, span, ahead in profile.steps(self.layers):
            if cut is not None:
                selecting = self.clock()
                tokens, counts = cut_tokens(tokens, cut, asked, left[-1], scores, choices)
                select += self.clock() - selecting
                left.append(counts)
                if places:
                    seen.append(tokens)
            if span:
                watch = None if ahead is None else watch_for(ahead, words, tokens)
                tokens, scores = self.decoder.run(tokens, span, cache, watch)
                spans.append(span)
        return Prefill(
            logits=self.decoder.logits(tokens.hidden),
            cache=cache,
            spans=tuple(spans),
            positions=positions.expand(axes, -1),
            left=left,
            seen=seen,
            select=select,
        )

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
        logits, positions = state.logits, state.positions
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
                if self.stop_strings and self.stop_strings.end(prompts[row].ids, answers[row]):
                    finish[row] = "stop"
                elif len(answers[row]) < limit:
                    stay.append(index)
            if not stay:
                return list(zip(answers, finish, strict=True))
            if len(stay) < len(rows):
                kept = torch.tensor(stay, device=best.device)
                state.cache.keep(kept)
                best, positions = best[kept], positions[:, kept]
                rows = [rows[i] for i in stay]
            tokens = text_tokens(self.family.embedding(best[:, None]), positions)
            logits = next_logits(self.decoder, tokens, state.spans, state.cache)
            positions = positions + 1

    def _penalise(self, logits: Tensor, histories: list[list[int]]) -> Tensor:
        """The logits after the model's own penalties, which look at each row's own tokens."""
        return torch.cat(
            [
                self.penalties(torch.tensor([history], device=logits.device), row[None])
                for history, row in zip(histories, logits.float(), strict=True)
            ]
        )


def decoder_for(model: Any) -> Decoder[Any]:
    """PyTorch's decoder for the device of `model`: with CUDA graphs where there are any."""
    return StaticDecoder(model) if model.device.type == "cuda" else TorchDecoder(model)


def watch_for(cut: Cut, words: Sequence[int], tokens: Tokens) -> Watch | None:
    """The tokens whose attention a cut asks for: the words of each question, or the last token.

    `words` says how many tokens follow each prompt's last image; a prompt without words there is
    watched at its last token.
    """
    method = pruning.build(cut.method, cut.options)
    if "attention" not in method.needs:
        return None
    last = getattr(method, "rows", "all") == "last"
    counts = [1 if last else max(1, count) for count in words]
    most = max(counts)
    rows = torch.arange(most) >= most - torch.tensor(counts)[:, None]
    return Watch(rows.to(tokens.hidden.device))
