"""The engine: from prompts to generated tokens, with visual tokens pruned on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sts_cli import pruning
from sts_cli.decoding import Cache, Compares, Decoder, Watch, next_logits
from sts_cli.decoding.cross import CrossDecoder
from sts_cli.decoding.masks import sliding_window
from sts_cli.decoding.static import StaticDecoder
from sts_cli.decoding.tokens import Tokens, text_tokens
from sts_cli.decoding.torch import TorchDecoder
from sts_cli.engine.choosing_images import Choices
from sts_cli.engine.clock import Clock
from sts_cli.engine.cutting import Asked, cut_tokens
from sts_cli.engine.looks import Looks
from sts_cli.engine.needs import lacking, needs_of
from sts_cli.engine.prefix import Prefix, Step, prefix_of, shared_steps
from sts_cli.engine.proof import prove
from sts_cli.engine.queries import queries_of
from sts_cli.engine.session import Generation, Prefill, Session
from sts_cli.engine.settings import StopStrings, check_settings, end_tokens, penalties
from sts_cli.engine.way import Way
from sts_cli.errors import ProfileError
from sts_cli.families import adapter, tested
from sts_cli.families.default import Encoded, Pixels, Prompt
from sts_cli.families.encoder import narrowable, narrowed
from sts_cli.profile import Narrowing, Profile

if TYPE_CHECKING:
    from sts_cli.loading.model import Loaded

MAX_NEW_TOKENS = 128


class Engine:
    """A loaded model, ready to answer under any profile."""

    def __init__(
        self,
        loaded: Loaded,
        decoder: Decoder[Any] | None = None,
        encoder: Any = None,
        guide: Engine | None = None,
    ):
        """`decoder` runs the layers, `encoder` the vision tower; without them, PyTorch does.

        `guide` is a smaller model, for profiles that have one. A family that no test covers is held
        against its own `generate` first; raises ModelError.
        """
        model = loaded.model
        self.name, self.checkpoint, self.guide = loaded.name, loaded.checkpoint, guide
        self.family = adapter(model, loaded.processor, encoder)
        self.encoders: dict[Narrowing, Any] = {}  # with patches dropped, as they were asked for
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
        text = model.get_decoder().config
        self.window = sliding_window(text)
        self.shares = tested(model.config.model_type, text.model_type, vision)
        if not self.shares:
            prove(self.family, self.decoder)

    def check(self, profile: Profile) -> None:
        """Raise ProfileError for a profile that this model cannot honour."""
        self._check_encoder(profile)
        self._check_guide(profile)
        stops = profile.stops(self.layers)
        config = self.family.model.config
        lacking(profile, self.name, config, self.decoder, self.checkpoint)
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
        if profile.escalate is not None:
            self.check(profile.escalate.to)

    def _check_encoder(self, profile: Profile) -> None:
        if profile.encoder is None:
            return
        layers = narrowable(self.family.model)
        if layers is None:
            raise ProfileError(
                f"Profile '{profile.name}': encoder drops patches inside the vision tower, which "
                f"sts cannot do for '{self.name}' ({self.family.model.config.model_type}). Leave "
                "encoder out."
            )
        if profile.encoder.layer(layers) >= layers:
            raise ProfileError(
                f"Profile '{profile.name}': encoder: depth {profile.encoder.depth:g} leaves none "
                f"of the {layers} layers of the vision tower of '{self.name}' after it. "
                f"Use a depth below {(layers - 0.5) / layers:.2f}."
            )

    def _check_guide(self, profile: Profile) -> None:
        guide = self.guide
        if profile.guide is None:
            return
        if guide is None or guide.name != profile.guide:
            raise ProfileError(
                f"Profile '{profile.name}': its guide '{profile.guide}' is not loaded. Load the "
                "model with this profile."
            )
        if not (guide.shares and self.shares):
            raise ProfileError(
                f"Profile '{profile.name}': the places of visual tokens are not known for both "
                f"'{self.name}' and its guide '{guide.name}', so no score can be moved. Use models "
                "of tested families."
            )

    def prepare(self, profile: Profile) -> None:
        """Make ready to answer under a profile, so that the first question need not wait."""
        for one in profile.ladder:
            self.encoder(one.encoder)
            self.decoder.prepare(*(span for _, span, _ in one.steps(self.layers) if span))

    def encoder(self, cut: Narrowing | None) -> Any:
        """What computes `get_image_features` with patches dropped as `cut` says."""
        if cut is None:
            return self.family.encoder
        if cut not in self.encoders:
            self.encoders[cut] = narrowed(self.family.model, self.family.encoder, cut)
        return self.encoders[cut]

    @torch.inference_mode()
    def encode(
        self,
        pixels: Sequence[Pixels],
        cut: Narrowing | None = None,
        profiles: Sequence[Profile] = (),
    ) -> tuple[list[Encoded], float]:
        """The images' visual tokens, and the seconds that took.

        `cut` is a profile's `encoder`; what `profiles` need of a whole encoder comes with them.
        """
        started = self.clock()
        needs = needs_of(profiles) if cut is None else set()
        watch = [need for need in pruning.OF_ENCODER if need in needs]
        encoded = self.family.encode(pixels, self.encoder(cut), watch) if pixels else []
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
        looks: Looks | None = None,
        on_ids: Callable[[Sequence[int]], None] | None = None,
    ) -> list[Generation]:
        """Answer a batch of prompts greedily.

        `choices` remembers what was chosen of images before; `places` asks where the kept tokens
        are; `looks` says which images to look at; `on_ids` hears the first prompt's ids as they
        come.
        """
        session = self.session(
            profile,
            max_new_tokens=max_new_tokens,
            choices=choices,
            places=places,
            looks=looks,
            on_ids=on_ids,
        )
        done = session.admit(prompts)
        while session.rows:
            done += session.step()
        found = [generation for _, generation in sorted(done, key=lambda one: one[0])]
        select, prefill, decode = (
            sum(getattr(one, phase) for one in found) for phase in ("select", "prefill", "decode")
        )
        return [replace(one, select=select, prefill=prefill, decode=decode) for one in found]

    def session(
        self,
        profile: Profile,
        *,
        max_new_tokens: int | None = None,
        choices: Choices | None = None,
        places: bool = False,
        looks: Looks | None = None,
        on_ids: Callable[[Sequence[int]], None] | None = None,
    ) -> Session:
        """A batch that prompts may join while others are decoded; arguments as of `generate`."""
        limit = max_new_tokens or self.max_new_tokens
        return Session(self, profile, limit, choices or Choices(), places, looks, on_ids)

    @torch.inference_mode()
    def prefill(
        self,
        prompts: Sequence[Prompt],
        profile: Profile,
        limit: int,
        choices: Choices,
        places: bool,
        looks: Sequence[int] = (),
    ) -> Prefill:
        """Cut, run the layers behind the cut, next: up to the first token's logits.

        Prefixes that prompts share go first and alone, up to a cut that asks for the question.
        `looks` are the rows to look at, of one image each.
        """
        tokens = self.family.embed(prompts)
        words = [prompt.words(self.family.image_token_id) for prompt in prompts]
        asked = Asked(prompts, words, profile.attention == "proportional")
        way = Way.start(tokens, asked, places, looks)
        steps = list(profile.steps(self.layers))
        queries = {
            cut.depth: queries_of(cut, words, tokens)
            for cut in profile.cuts
            if {*pruning.WATCHED, "products"} & {*pruning.find(cut.method).needs}
        }
        shared = shared_steps(steps)
        prefix = self._prefix(tokens, asked, limit) if shared else None
        if prefix is None:
            cache = self.decoder.cache(len(prompts), limit)
            self._go(way, steps, cache, choices, queries)
        else:
            looked = [prefix.of[row] for row in looks]
            alone = Way.start(prefix.tokens, prefix.asked, places, looked)
            cache = self.decoder.cache(len(prefix.asked.prompts), limit + max(words))
            self._go(alone, [(cut, span, None) for cut, span, _ in shared], cache, choices, {})
            cache.keep(prefix.rows)
            way.tokens = prefix.words
            words_only = [(None, span, ahead) for _, span, ahead in shared]
            self._go(way, words_only, cache, choices, queries)
            way.join(alone, prefix.of)
            self._go(way, steps[len(shared) :], cache, choices, queries)
        positions = tokens.positions.amax((0, 2)) + 1  # [B]; of the unpruned prompt
        return Prefill(
            logits=self.decoder.logits(way.tokens.hidden),
            cache=cache,
            spans=tuple(span for _, span, _ in steps if span),
            positions=positions.expand(len(tokens.positions), -1),
            left=way.left,
            seen=way.seen,
            glimpses=way.glimpses,
            select=way.select,
        )

    def _prefix(self, tokens: Tokens, asked: Asked, limit: int) -> Prefix | None:
        """The prefixes of prompts, if some are shared and can run alone.

        A sliding window counts the padding between a prefix and its words, so it must hold all.
        """
        prefix = prefix_of(tokens, asked) if self.shares else None
        if prefix is None or (self.window is not None and prefix.width + limit > self.window):
            return None
        return prefix

    def _go(
        self,
        way: Way,
        steps: Sequence[Step],
        cache: Cache,
        choices: Choices,
        queries: Mapping[float, Tensor],
    ) -> None:
        """Take prompts through `steps`: each a cut, the layers after it, and the next cut.

        `queries` [B, R] are the tokens that a cut's method asks, by the cut's depth.
        """
        for cut, span, ahead in steps:
            if cut is not None:
                selecting = self.clock()
                products = None
                if "products" in pruning.find(cut.method).needs:
                    assert isinstance(self.decoder, Compares)  # checked with the profile
                    asks = queries[cut.depth]
                    products = self.decoder.products(way.tokens, cut.layer(self.layers), asks)
                left, scores = way.left[-1], way.scores
                tokens, counts = cut_tokens(
                    way.tokens, cut, way.asked, left, scores, choices, products
                )
                way.select += self.clock() - selecting
                way.cut(tokens, counts)
            if span:
                needs = () if ahead is None else pruning.find(ahead.method).needs
                watch = None
                if ahead is not None and {*pruning.WATCHED} & {*needs}:
                    watch = Watch(queries[ahead.depth], "heads" in needs)
                way.tokens, way.scores = self.decoder.run(way.tokens, span, cache, watch)

    @torch.inference_mode()
    def step(self, ids: Tensor, positions: Tensor, spans: Sequence[range], cache: Cache) -> Tensor:
        """The logits [B, V] after the tokens `ids` [B] at `positions` [P, B]."""
        tokens = text_tokens(self.family.embedding(ids[:, None]), positions)
        return next_logits(self.decoder, tokens, spans, cache)


def decoder_for(model: Any) -> Decoder[Any]:
    """PyTorch's decoder for `model`: with CUDA graphs where its device has any."""
    if getattr(model.get_decoder().config, "cross_attention_layers", None):
        return CrossDecoder(model)
    return StaticDecoder(model) if model.device.type == "cuda" else TorchDecoder(model)
