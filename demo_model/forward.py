"""The model's forward for training: transformers' weights, fewer and wider operations.

On a CPU, explicit attention is faster than SDPA for few wide heads. Several questions share one
pass over an image. `demo_model check` compares the result with transformers' own forward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of [B, H, L, d] tensors; `bias` [B, 1, L, L] is added to the logits."""
    if query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    logits = (query * query.shape[-1] ** -0.5) @ key.mT
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1) @ value


def tower(vision: Any, pixels: Tensor, where: Tensor | None = None) -> Tensor:
    """Features [B, N, D] of the patches `pixels` [B, N, 588], with values in -1..1.

    `where` [B, N] are the patches' numbers in the grid; None stands for all 576 in order.
    """
    embed = vision.embeddings
    weight = embed.patch_embedding.weight
    places = embed.position_embedding.weight
    hidden = F.linear(pixels, weight.view(len(weight), -1))
    hidden = hidden + (places[1:] if where is None else F.embedding(where + 1, places))
    batch, count, width = hidden.shape
    first = (embed.class_embedding + places[0]).expand(batch, 1, width)
    hidden = vision.pre_layrnorm(torch.cat([first, hidden], dim=1))
    for layer in vision.encoder.layers:
        block = layer.self_attn
        weights = torch.cat([block.q_proj.weight, block.k_proj.weight, block.v_proj.weight])
        biases = torch.cat([block.q_proj.bias, block.k_proj.bias, block.v_proj.bias])
        mixed = F.linear(layer.layer_norm1(hidden), weights, biases)
        query, key, value = mixed.view(batch, count + 1, 3, block.num_heads, -1).permute(
            2, 0, 3, 1, 4
        )
        attended = attend(query, key, value).transpose(1, 2).reshape(batch, count + 1, width)
        hidden = hidden + block.out_proj(attended)
        inner = F.gelu(layer.mlp.fc1(layer.layer_norm2(hidden)))
        hidden = hidden + layer.mlp.fc2(inner)
    return hidden[:, 1:]


class Half(NamedTuple):
    """The hidden states after the lower half of the layers, and its last queries and keys."""

    hidden: Tensor  # [B, L, D]
    query: Tensor  # [B, H, L, d], rotated
    key: Tensor  # [B, H, L, d], rotated


def language(text: Any, hidden: Tensor, positions: Tensor, bias: Tensor) -> tuple[Tensor, Half]:
    """Hidden states [B, L, D] after all layers and the last norm, and the lower half's output.

    `hidden` [B, L, D] are embeddings, with `positions` [B, L] and the mask `bias` [B, 1, L, L].
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
        block, mlp = layer.self_attn, layer.mlp
        weights = torch.cat([block.q_proj.weight, block.k_proj.weight, block.v_proj.weight])
        mixed = F.linear(normed(hidden, layer.input_layernorm), weights)
        query, key, value = mixed.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key = rotated(query), rotated(key)
        attended = attend(query, key, value, bias)
        hidden = hidden + block.o_proj(attended.transpose(1, 2).reshape(batch, length, width))
        gate_and_up = F.linear(
            normed(hidden, layer.post_attention_layernorm),
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
        )
        gate, up = gate_and_up.chunk(2, dim=-1)
        hidden = hidden + mlp.down_proj(F.silu(gate) * up)
        if number == len(text.layers) // 2:
            middle = Half(hidden, query, key)
    return normed(hidden, text.norm), middle


def normed(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def answers(
    model: Any, features: Tensor, where: Tensor, packed: dict[str, Tensor], prefix: Tensor
) -> tuple[Tensor, Half]:
    """Logits [n, V] of the answers' tokens, in the order of `packed["targets"]`, and the lower
    half's output for `prefix`, image and packed tokens. Arguments as those of `laid`.
    """
    out, middle = language(
        model.model.language_model, *laid(model, features, where, packed, prefix)
    )
    return read(model, out, packed), middle


def laid(
    model: Any, features: Tensor, where: Tensor, packed: dict[str, Tensor], prefix: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The language model's input: embeddings [B, L, D], positions [B, L], mask [B, 1, L, L].

    `features` [B, N, D] are the tower's for patches `where` [B, N]; `prefix` [2] are the ids before
    the image.
    """
    embedding = model.get_input_embeddings()
    batch, count, _ = features.shape
    visual = model.model.multi_modal_projector(features)
    start = embedding(prefix).expand(batch, -1, -1)
    hidden = torch.cat([start, visual, embedding(packed["ids"])], dim=1)
    first = len(prefix)
    positions = torch.cat(
        [
            torch.arange(first, device=where.device).expand(batch, -1),
            where + first,
            packed["positions"],
        ],
        dim=1,
    )
    return hidden, positions, block_bias(packed["segment"], first + count, hidden.dtype)


def read(model: Any, out: Tensor, packed: dict[str, Tensor]) -> Tensor:
    """Logits [n, V] of the answers' tokens from the language model's output [B, L, D]."""
    asked = out[:, -packed["ids"].shape[1] :]
    return F.linear(asked[packed["predicts"]], model.lm_head.weight)


def block_bias(segment: Tensor, shared: int, dtype: torch.dtype) -> Tensor:
    """The mask [B, 1, L, L] by which a question sees itself and the `shared` tokens before it.

    `segment` [B, T] is the number of each token's question; -1 is padding.
    """
    batch, length = segment.shape
    total = shared + length
    causal = torch.ones(total, total, dtype=torch.bool, device=segment.device).tril()
    allowed = causal.expand(batch, -1, -1).clone()
    allowed[:, shared:, shared:] &= segment[:, :, None] == segment[:, None, :]
    bias = torch.zeros(batch, 1, total, total, dtype=dtype, device=segment.device)
    return bias.masked_fill_(~allowed[:, None], -1e4)


class Readout(nn.Module):
    """Linear heads that predict labels from hidden states. Only used in training."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.out(self.norm(features))
        return outputs
