"""Layers run by OpenVINO: pieces between the cuts, compiled, each with its cache as its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import openvino as ov
import torch
from torch import Tensor

from sts_cli.decoding import Watch
from sts_cli.decoding.attention import attention_paid
from sts_cli.decoding.masks import KINDS, layer_kinds
from sts_cli.decoding.tokens import Keys, Tokens, last
from sts_cli.decoding.torch import BOTH_WAYS
from sts_cli.openvino.kept import Shelf
from sts_cli.openvino.ready import NotConvertible
from sts_cli.openvino.spans import head_model, joined, layer_model
from sts_cli.openvino.weights import Weights, compress

# OpenVINO's own choice is a cache in 8 bits, activations in 8 bits where weights are small, and
# bfloat16 where the CPU computes in it.
EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
FAST = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"}
# Activations in 8 bits, by groups with a scale of their own. For int4 weights they must be the
# groups of the weights, which is OpenVINO's own choice; for int8 larger ones are faster.
GROUPS = {"int8": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "128"}}
HIDDEN = torch.finfo(torch.bfloat16).min  # of a logit; finite in every precision that may compute


def settings_for(dtype: torch.dtype, weights: Weights) -> dict[str, str]:
    """OpenVINO's settings that compute in `dtype`; exact with whole weights in float32."""
    settings = EXACT if weights == "none" else FAST
    halves = {torch.bfloat16: "bf16", torch.float16: "f16"}
    precision = {"INFERENCE_PRECISION_HINT": halves.get(dtype, "f32")}
    return {**settings, **GROUPS.get(weights, {}), **precision}


@dataclass
class Held:
    """The state of one span for a batch."""

    requests: list[tuple[range, ov.InferRequest]]
    keys: Keys
    beam: Tensor  # [B]; which rows of the state go on at the next run


class Cache:
    """The KV cache of a batch: a state for every span that has run."""

    def __init__(self) -> None:
        self.held: dict[range, Held] = {}

    def keep(self, rows: Tensor) -> None:
        """Only the rows `rows` [K] stay, in this order. The state follows at the next run."""
        for one in self.held.values():
            one.keys, one.beam = one.keys.rows(rows), one.beam[rows]

    def join(self, other: Cache) -> None:
        """Add the rows of `other` behind these; see the protocol. States are read, joined, set."""
        for span, held in self.held.items():
            new = other.held[span]
            held.keys = held.keys.joined(new.keys)
            length = held.keys.mask.shape[1]
            states = {state.name: state for _, one in new.requests for state in one.query_state()}
            for state in (state for _, one in held.requests for state in one.query_state()):
                parts = [(state, held.beam), (states[state.name], new.beam)]
                rows = [torch.from_numpy(one.state.data)[beam] for one, beam in parts]
                state.state = ov.Tensor(torch.cat([last(one, length, 2) for one in rows]).numpy())
            held.beam = torch.arange(len(held.keys.mask), dtype=torch.int32)


class OpenVinoDecoder:
    """The language model of `model` on a CPU. Raises NotConvertible.

    A piece is what lies between two stops that any span has asked for, so that profiles with other
    cuts share compiled weights. Only layers that are not on the shelf must have their weights.
    """

    joins = True

    def __init__(
        self,
        model: Any,
        shelf: Shelf,
        weights: Weights = "none",
        settings: Mapping[str, str] = EXACT,
    ):
        self.text: Any = model.get_decoder()
        self.head = model.get_output_embeddings()
        self.shelf, self.weights, self.settings = shelf, weights, settings
        self.config = self.text.config
        self.two_way = self.config.model_type in BOTH_WAYS
        self.kinds = layer_kinds(self.config)
        if odd := set(self.kinds).difference(KINDS):
            raise NotConvertible(f"OpenVINO cannot take layers of kind {', '.join(sorted(odd))}.")
        self.layers = len(self.text.layers)
        vision = getattr(model.config, "vision_config", None)
        levels = len(getattr(vision, "deepstack_visual_indexes", None) or ())
        self.stops = {
            *range(levels + 1),
            self.layers,
        }  # DeepStack adds to what layer 0, 1, ... give
        self.pieces: dict[range, ov.CompiledModel] = {}
        self.last = self.shelf.compile(shelf.read("head", self._head), self.settings)

    def convert(self, progress: Callable[[int, int], None] = lambda done, every: None) -> None:
        """Convert all layers, one by one, and free those that are on disk afterwards.

        Then the torch model cannot run its layers any more.
        """
        for layer in range(self.layers):
            progress(layer, self.layers)
            if not self.shelf.has(f"layer-{layer}"):
                self._read(layer)
            if self.shelf.has(f"layer-{layer}"):
                self.text.layers[layer].to("meta")
        progress(self.layers, self.layers)

    def _read(self, layer: int) -> ov.Model:
        return self.shelf.read(f"layer-{layer}", lambda: self._layer(layer))

    def _layer(self, layer: int) -> ov.Model:
        model = layer_model(self.text.layers[layer], self.config)
        return compress(model, self.weights, self.text.layers[layer])

    def _head(self) -> ov.Model:
        model = head_model(self.text.norm, self.head, self.config)
        return compress(model, "none" if self.weights == "none" else "int8", self.head)

    def prepare(self, *spans: range) -> None:
        """Compile what `spans` will need."""
        self.stops.update(*((one.start, one.stop) for one in spans))
        for span in spans:
            self._between(span)

    def _between(self, span: range) -> list[tuple[range, ov.CompiledModel]]:
        """The pieces of a span, compiled now if they are not yet."""
        stops = sorted(stop for stop in self.stops if span.start <= stop <= span.stop)
        return [(range(*ends), self._piece(range(*ends))) for ends in pairwise(stops)]

    def _piece(self, span: range) -> ov.CompiledModel:
        if span not in self.pieces:
            # A longer piece that this one cuts goes: its weights would lie in memory twice.
            self.pieces = {
                other: model
                for other, model in self.pieces.items()
                if other.stop <= span.start or span.stop <= other.start
            }
            model = joined(span, self._read, self.kinds)
            self.pieces[span] = self.shelf.compile(model, self.settings)
        return self.pieces[span]

    def cache(self, rows: int, new: int) -> Cache:
        """An empty KV cache. OpenVINO's state grows as it must."""
        return Cache()

    def run(
        self, tokens: Tokens, span: range, cache: Cache, watch: Watch | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """`tokens` after the layers `span`, in float32, and what the watched rows attended to."""
        if not span:
            return tokens, None
        held = self._held(tokens, span, cache)
        kinds = {self.kinds[layer] for layer in span}
        biases = {kind: self._bias(tokens, held.keys, kind) for kind in kinds}
        given: dict[str, np.ndarray] = {"beam": held.beam.numpy()}
        for kind in kinds:
            cos, sin = self._rotation(tokens, kind)
            given |= {
                f"bias.{kind}": biases[kind].numpy(),
                f"cos.{kind}": cos.float().numpy(),
                f"sin.{kind}": sin.float().numpy(),
            }
        hidden = tokens.hidden.float()
        outputs: Any = {}
        for piece, request in held.requests:
            here = {self.kinds[layer] for layer in piece}
            feed = {
                name: value
                for name, value in given.items()
                if name == "beam" or name.partition(".")[2] in here
            }
            feed["hidden"] = hidden.numpy()
            outputs = request.infer(feed, share_inputs=True, share_outputs=True)
            hidden = torch.from_numpy(outputs["out"])
            if piece[-1] < len(tokens.residuals):
                hidden = hidden + tokens.residuals[piece[-1]].float()
        held.beam = torch.arange(len(hidden), dtype=torch.int32)
        scores = None
        if watch is not None:
            key = torch.from_numpy(outputs["key"])
            if held.keys.mask.shape[1] > key.shape[2]:
                key = state_of(held.requests[-1][1], f"{span[-1]}.keys")
            query = torch.from_numpy(outputs["query"])
            scores = watched(watch, query, key, biases[self.kinds[span[-1]]])
        return replace(tokens, hidden=hidden.clone()), scores  # off the request's own memory

    def _held(self, tokens: Tokens, span: range, cache: Cache) -> Held:
        """The span's part of the cache, to which `tokens` are added."""
        held = cache.held.get(span)
        if held is None:
            self.stops.update((span.start, span.stop))
            requests = [(one, model.create_infer_request()) for one, model in self._between(span)]
            rows = torch.arange(len(tokens.hidden), dtype=torch.int32)
            cache.held[span] = Held(requests, tokens.keys, rows)
            return cache.held[span]
        held.keys = held.keys.appended(tokens.keys)
        return held

    def _bias(self, tokens: Tokens, keys: Keys, kind: str) -> Tensor:
        """[B, 1, L, K]: a key's log size where it may be seen, else HIDDEN.

        Never one bias for all rows: in bfloat16 OpenVINO (2026.4) then computes only the first one
        right.
        """
        length, total = tokens.mask.shape[1], keys.mask.shape[1]
        key = torch.arange(total)
        query = key[-length:, None]
        seen = (key <= query)[None]
        if self.two_way and length == total:
            run = tokens.segment
            seen = seen | (run[:, :, None] == run[:, None]) & (run[:, :, None] >= 0)
        if kind == "sliding_attention":
            seen = seen & (key > query - self.config.sliding_window)
        if keys.padded:
            seen = seen & keys.mask[:, None]
        size = torch.zeros(1, 1, 1) if keys.log_size is None else keys.log_size[:, None].float()
        bias = torch.where(seen, size, HIDDEN)[:, None]
        return bias.expand(len(tokens.hidden), -1, -1, -1).contiguous()

    def _rotation(self, tokens: Tokens, kind: str) -> tuple[Tensor, Tensor]:
        """RoPE's cosines and sines [B, L, d]; Gemma 3 has others for each kind of layer."""
        positions = tokens.positions[0] if len(tokens.positions) == 1 else tokens.positions
        by_kind = hasattr(self.text.rotary_emb, f"{kind}_inv_freq")
        return self.text.rotary_emb(tokens.hidden.float(), positions, *[kind] * by_kind)

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, V] of the last token, from hidden states [B, L, D] after the last layer."""
        rows = hidden[:, -1].float().contiguous().numpy()
        outputs = self.last({"hidden": rows}, share_inputs=True)
        return torch.from_numpy(outputs["logits"])


def state_of(request: ov.InferRequest, name: str) -> Tensor:
    """The keys or values [B, G, K, d] of the state whose name begins so, in float32."""
    (state,) = (one for one in request.query_state() if one.name.startswith(name))
    return torch.from_numpy(state.state.data).float()


def watched(watch: Watch, query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """[B, K]: what the watched queries attended to.

    `query` [B, H, L, d] is scaled for its logits; `key` [B, G, K, d] are all keys.
    """
    least = torch.finfo(bias.dtype).min
    mask = torch.where(bias > HIDDEN, bias, least).expand(len(query), -1, -1, -1)
    return attention_paid((query, key, mask, 1.0), watch.queries, watch.by_head)
