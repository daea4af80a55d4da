"""Proportional attention: a token that is left counts as much as the tokens that it stands for.

Where tokens are dropped, what is left of an image weighs too little in every softmax, and what was
kept densely, such as signs and shapes, weighs too much beside the background. Adding the logarithm
of a token's size to its attention logits mends both: a token of size n is attended to as n tokens
with its key and value. The bias is ToMe's (arXiv 2210.09461), which merges tokens; we drop them,
and count each for the kept one nearest to it in content and place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sts_cli.pruning.repulsion import distances


def log_sizes(features: Tensor, grid: Tensor, log_size: Tensor, keep: Tensor) -> Tensor:
    """[K] float: logarithms of how many tokens of one image each of the kept ones stands for.

    `features` [N, D], `grid` [N, 2] rows and columns in 0..1, `log_size` [N] as it was, `keep` [N]
    bool with K > 0 True. A dropped token counts for the kept one at the least joint distance, which
    is `repulsion`'s with spatial 1. O(N K D) time, O(N K) memory.
    """
    if bool(keep.all()):
        return log_size
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    nearest = distances(unit[~keep] @ unit[keep].mT, grid[~keep], grid[keep]).argmin(1)  # [N - K]
    size = log_size.float().exp()
    return size[keep].index_add(0, nearest, size[~keep]).log()
