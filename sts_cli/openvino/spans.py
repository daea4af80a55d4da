"""Layers of a transformers text model as OpenVINO models with a state, one file each, and joined.

OpenVINO's `convert_model` reports its use to a server; its frontend, called here, does not. In a
layer's state rows go on as its input `beam` says: [B] int32, and only with int32 the CPU plugin
fuses attention with its cache.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn
from transformers import AttentionInterface

from sts_cli.decoding.torch import cache_argument

TRACED = "sts_traced"
INPUTS = ("hidden", "bias", "cos", "sin", "beam")
OUTPUTS = ("out", "query", "key")
STATE = ("keys", "values")


class Past:
    """The cache and the attention's ear of one layer while it is traced."""

    def __init__(self, held: tuple[Tensor, Tensor], beam: Tensor):
        self.held = [part.index_select(0, beam) for part in held]
        self.query = self.fresh = torch.empty(0)

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.fresh = key
        self.held = [torch.cat(pair, 2) for pair in zip(self.held, (key, value), strict=True)]
        return self.held[0], self.held[1]


def traced_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    past: Any = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA without branches on shapes, so that one trace holds for all of them."""
    if softcap is not None:
        raise NotImplementedError("soft caps on attention logits")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if past is not None:
        past.query = query * scale
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = (repeated(part, groups) for part in (key, value))
    outputs = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scale
    )
    return outputs.transpose(1, 2).contiguous(), None


def repeated(part: Tensor, groups: int) -> Tensor:
    """`part` [B, G, K, d] for each of the heads that share it: [B, G * groups, K, d]."""
    rows, heads, length, dim = part.shape
    if groups == 1:
        return part
    part = part[:, :, None].expand(rows, heads, groups, length, dim)
    return part.reshape(rows, heads * groups, length, dim)


AttentionInterface.register(TRACED, traced_attention)


class OneLayer(nn.Module):
    """A layer whose cache is inputs and outputs; the query comes out scaled for its logits."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.cache_name = cache_argument(layer)

    def forward(
        self,
        hidden: Tensor,
        bias: Tensor,
        cos: Tensor,
        sin: Tensor,
        beam: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, ...]:
        past = Past((keys, values), beam)
        hidden = self.layer(
            hidden,
            attention_mask=bias,
            position_embeddings=(cos, sin),
            past=past,
            **{self.cache_name: past},
        )
        return hidden, past.query, past.fresh, *past.held


def layer_model(layer: nn.Module, config: Any) -> ov.Model:
    """A layer as a model with a state.

    Inputs: hidden [B, L, D], bias [B or 1, 1, L, K] for the logits, cos and sin [B, L, d], beam.
    Outputs: out [B, L, D]; query [B, H, L, d] and key [B, G, L, d] of these tokens.
    """
    width, heads = config.hidden_size, config.num_key_value_heads
    dim = getattr(config, "head_dim", None) or width // config.num_attention_heads
    rows, length, held = 2, 3, 4
    example = (
        torch.randn(rows, length, width),
        torch.randn(rows, 1, length, length + held),
        torch.randn(rows, length, dim),
        torch.randn(rows, length, dim),
        torch.arange(rows, dtype=torch.int32),
        torch.randn(rows, heads, held, dim),
        torch.randn(rows, heads, held, dim),
    )
    model = traced(OneLayer(traceable(layer)), example)
    shapes = [[-1, -1, width], [-1, 1, -1, -1], [-1, -1, dim], [-1, -1, dim], [-1]]
    shapes += [[-1, heads, -1, dim]] * 2
    named(model, (*INPUTS, *STATE), shapes, (*OUTPUTS, *(f"new_{name}" for name in STATE)))
    apply_make_stateful_transformation(model, {name: f"new_{name}" for name in STATE})
    begin_empty(model, heads, dim)
    return model


def traceable(layer: nn.Module, attention: str = TRACED) -> nn.Module:
    """A copy in float32 with attention that can be traced; float32 weights are shared with it."""
    tensors = [*layer.parameters(), *layer.buffers()]
    shared = {id(one): one for one in tensors if one.dtype == torch.float32}
    twin = copy.deepcopy(layer, shared).float().eval()  # type: ignore[arg-type]
    for module in twin.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = attention  # type: ignore[union-attr]
    return twin


def traced(module: nn.Module, example: tuple[Tensor, ...]) -> ov.Model:
    """A module as OpenVINO's frontend converts it. Its constants share the module's memory."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and warns of fixed sizes
        decoder = TorchScriptPythonDecoder(module.eval(), example_input=example)
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))


def named(
    model: ov.Model, inputs: Sequence[str], shapes: Sequence[list[int]], outputs: Sequence[str]
) -> None:
    """Give a model's ports their names, and its inputs their shapes; -1 is any length.

    Outputs without a name keep that of the trace.
    """
    for port, name, shape in zip(model.inputs, inputs, shapes, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    for port, name in zip(model.outputs, outputs, strict=False):
        port.get_tensor().set_names({name})
    model.validate_nodes_and_infer_types()


def begin_empty(model: ov.Model, heads: int, dim: int) -> None:
    """Let the state begin as [B, heads, 0, dim], B as long as `beam`."""
    rows = ops.shape_of(model.input("beam"), output_type="i64")
    shape = ops.concat([rows, *(ops.constant(np.array([n])) for n in (heads, 0, dim))], 0)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([ops.broadcast(ops.constant(np.float32(0)), shape)])
    model.validate_nodes_and_infer_types()


def joined(span: range, read: Callable[[int], ov.Model], kinds: Sequence[str]) -> ov.Model:
    """The layers `span`, one after the other, as one model.

    Inputs: hidden, beam, and for each kind of layer among them `bias.KIND`, `cos.KIND`,
    `sin.KIND`; outputs as of its last layer.
    """
    given: dict[str, Any] = {}
    sinks, variables = [], []
    before: Any = None
    for layer in span:
        model = read(layer)
        for port in model.inputs:
            (name,) = port.get_names()
            if name == "hidden" and before is not None:
                source = before
            else:
                shared = name if name in ("hidden", "beam") else f"{name}.{kinds[layer]}"
                if shared not in given:
                    given[shared] = ops.parameter(port.get_partial_shape(), port.get_element_type())
                    given[shared].output(0).get_tensor().set_names({shared})
                source = given[shared].output(0)
            port.replace(source)
        for variable in model.get_variables():
            info = variable.get_info()
            info.variable_id = f"{layer}.{info.variable_id}"
            variable.update(info)
        sinks += model.get_sinks()
        variables += model.get_variables()
        outputs = [model.output(name).get_node() for name in OUTPUTS]
        before = outputs[0].input_value(0)
    whole = ov.Model(outputs, sinks, list(given.values()), variables, f"layers {span}")
    whole.validate_nodes_and_infer_types()
    return whole


class Head(nn.Module):
    """Logits of one token a row: norm, head, and the model's cap on them."""

    def __init__(self, norm: nn.Module, head: nn.Module, cap: float | None):
        super().__init__()
        self.norm, self.head, self.cap = norm, head, cap

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.head(self.norm(hidden))
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def head_model(norm: nn.Module, head: nn.Module, config: Any) -> ov.Model:
    """`hidden` [B, D] -> `logits` [B, V]."""
    cap = getattr(config, "final_logit_softcapping", None)
    module = Head(traceable(norm), traceable(head), cap)
    model = traced(module, (torch.randn(2, config.hidden_size),))
    named(model, ["hidden"], [[-1, config.hidden_size]], ["logits"])
    return model
