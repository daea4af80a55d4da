"""The tokens of each prompt whose attention to the image a method asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sts_cli import pruning
from sts_cli.decoding.tokens import Tokens
from sts_cli.profile import Cut


def queries_of(cut: Cut, words: Sequence[int], entered: Tokens) -> Tensor:
    """[B, R] bool: the tokens that a cut's method asks, among the last R of each prompt.

    The words of each question, its last token, or its raters. `words` says how many tokens follow
    each prompt's last image; of a prompt without words there, the last token is asked. `entered`
    are the prompts before the first layer and before any cut.
    """
    rows = getattr(pruning.build(cut.method, cut.options), "rows", "all")
    counts = [1 if rows == "last" else max(1, count) for count in words]
    most = max(counts)
    asked = torch.arange(most) >= most - torch.tensor(counts)[:, None]
    asked = asked.to(entered.hidden.device)
    return raters(asked, entered) if rows == "raters" else asked


def raters(asked: Tensor, entered: Tokens) -> Tensor:
    """[B, R] bool: those of the words `asked` that are at least as like the image as their mean.

    SparseVLM's likeness: each visual token shares itself out over the words, by the softmax of the
    products of their embeddings; a word's likeness is its mean share.
    """
    hidden = entered.hidden.float()
    products = hidden @ hidden[:, -asked.shape[1] :].mT  # [B, L, R]
    shares = products.masked_fill(~asked[:, None], -torch.inf).softmax(-1)
    seen = (entered.visual & entered.mask)[..., None]
    likeness = (shares * seen).sum(1) / seen.sum(1).clamp(min=1)
    mean = likeness.sum(1, keepdim=True) / asked.sum(1, keepdim=True)
    return asked & (likeness >= mean * (1 - 1e-5))
