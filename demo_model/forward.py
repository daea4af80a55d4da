"""The model's forward for training: transformers' weights, fewer and wider operations.

Explicit attention is faster than SDPA on a CPU for few wide heads, and several questions share one
pass over an image. `demo_model check` holds it against transformers' own forward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """[B, H, L, d] each; `bias` [B, 1, L, L] is added to the logits."""
    if query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    logits = (query * query.shape[-1] ** -0.5) @ key.mT
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1) @ value


def tower(vision: Any, pixels: Tensor, where: Tensor | None = None) -> Tensor:
    """[B, N, D] features of patches `pixels` [B, N, 588] in -1..1; `where` [B, N] are their
    numbers in the grid, all 576 without it."""
    embed = vision.embeddings
    weight = embed.patch_embedding.weight
    places = embed.position_embedding.weight
    hidden = F.linear(pixels, weight.view(len(weight), -1))
    hidden = hidden + (places[1:] if where is None else F.embedding(where + 1, places))
    batch, count, width = hidden.shape
    first = (embed.class_embedding + places[0]).expand(batch, 1, width)
    hidden = vision.pre_layrnorm(torch.cat([first, hidden], dim=1))
    for layer in vision.encoder.layers:
        own = layer.self_attn
        weights = torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight])
        biases = torch.cat([own.q_proj.bias, own.k_proj.bias, own.v_proj.bias])
        mixed = F.linear(layer.layer_norm1(hidden), weights, biases)
        query, key, value = mixed.view(batch, count + 1, 3, own.num_heads, -1).permute(
            2, 0, 3, 1, 4
        )
        seen = attend(query, key, value).transpose(1, 2).reshape(batch, count + 1, width)
        hidden = hidden + own.out_proj(seen)
        inner = F.gelu(layer.mlp.fc1(layer.layer_norm2(hidden)))
        hidden = hidden + layer.mlp.fc2(inner)
    return hidden[:, 1:]


class Half(NamedTuple):
    """What the lower half of the layers makes of tokens, and what its last layer compares."""

    hidden: Tensor  # [B, L, D]
    query: Tensor  # [B, H, L, d], rotated
    key: Tensor  # [B, H, L, d], rotated


def language(text: Any, hidden: Tensor, positions: Tensor, bias: Tensor) -> tuple[Tensor, Half]:
    """[B, L, D] after all layers and the last norm, and what half of the layers make.

    `positions` [B, L], `bias` [B, 1, L, L].
    """
    batch, length, width = hidden.shape
    heads = text.config.num_attention_heads
    cos, sin = text.rotary_emb(hidden, positions)
    cos, sin = cos[:, None].to(hidden.dtype), sin[:, None].to(hidden.dtype)
    half = width // heads // 2
    sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)

    def rotated(x: Tensor) -> Tensor:
        return x * cos + torch.cat([x[..., half:], x[..., :half]], dim=-1) * sin

    for number, layer in enumerate(text.layers, 1):
        own, mlp = layer.self_attn, layer.mlp
        weights = torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight])
        mixed = F.linear(normed(hidden, layer.input_layernorm), weights)
        query, key, value = mixed.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key = rotated(query), rotated(key)
        seen = attend(query, key, value, bias)
        hidden = hidden + own.o_proj(seen.transpose(1, 2).reshape(batch, length, width))
        both = F.linear(
            normed(hidden, layer.post_attention_layernorm),
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
        )
        gate, up = both.chunk(2, dim=-1)
        hidden = hidden + mlp.down_proj(F.silu(gate) * up)
        if number == len(text.layers) // 2:
            middle = Half(hidden, query, key)
    return normed(hidden, text.norm), middle


def normed(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def answers(
    model: Any, features: Tensor, where: Tensor, packed: dict[str, Tensor], prefix: Tensor
) -> tuple[Tensor, Half]:
    """Logits [n, V] for the answers' tokens, in the order of `packed["targets"]`, and what half of
    the layers make of all: first of `prefix` and image, then of the packed tokens.

    `features` [B, N, D] are the tower's, of patches `where` [B, N]; `prefix` [2] are the ids before
    the image.
    """
    embedding = model.get_input_embeddings()
    batch, count, _ = features.shape
    seen = model.model.multi_modal_projector(features)
    start = embedding(prefix).expand(batch, -1, -1)
    hidden = torch.cat([start, seen, embedding(packed["ids"])], dim=1)
    first = len(prefix)
    positions = torch.cat(
        [
            torch.arange(first, device=where.device).expand(batch, -1),
            where + first,
            packed["positions"],
        ],
        dim=1,
    )
    bias = block_bias(packed["segment"], first + count, hidden.dtype)
    out, middle = language(model.model.language_model, hidden, positions, bias)
    logits = F.linear(out[:, first + count :][packed["predicts"]], model.lm_head.weight)
    return logits, middle


def block_bias(segment: Tensor, shared: int, dtype: torch.dtype) -> Tensor:
    """[B, 1, L, L]: each question sees the `shared` tokens before all questions, and itself.

    `segment` [B, T] numbers the questions; -1 is padding.
    """
    batch, length = segment.shape
    total = shared + length
    causal = torch.ones(total, total, dtype=torch.bool, device=segment.device).tril()
    allowed = causal.expand(batch, -1, -1).clone()
    allowed[:, shared:, shared:] &= segment[:, :, None] == segment[:, None, :]
    bias = torch.zeros(batch, 1, total, total, dtype=dtype, device=segment.device)
    return bias.masked_fill_(~allowed[:, None], -1e4)


class Readout(nn.Module):
    """Linear heads for what hidden states should know; thrown away after training."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.out(self.norm(features))
        return found
