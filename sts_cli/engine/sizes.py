"""Sizes: how many tokens each one that is left stands for, for proportional attention.

Where tokens are dropped, what is left of an image weighs too little in every softmax, and what was
kept densely, such as signs and shapes, weighs too much beside the background. Adding the logarithm
of a token's size to its attention logits mends both: a token of size n is attended to as n tokens
with its key and value. The bias is ToMe's (arXiv 2210.09461), which merges tokens; we drop them,
and count each for the kept one nearest to it in content and place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sts_cli.pruning import Cutting
from sts_cli.pruning.repulsion import distances, joint, median, normalised
from sts_cli.pruning.visionzip import without


def log_sizes(features: Tensor, grid: Tensor, log_size: Tensor, cutting: Cutting) -> Tensor:
    """[K] float: logarithms of how many tokens of one image each of the kept ones stands for.

    `features` [N, D], `grid` [N, 2] rows and columns in 0..1, `log_size` [N] as it was. A merged
    token counts for the one that it is merged into, a dropped one for the kept one at the least
    joint distance, which is `repulsion`'s with spatial 1. O(N K D) time, O(N K) memory.
    """
    keep, size = cutting.keep, log_size.float().exp()
    if len(keep) == len(size):
        return log_size
    if cutting.into is not None:
        into = torch.searchsorted(keep, cutting.into)
        return torch.zeros_like(size[: len(keep)]).index_add(0, into, size).log()
    gone = without(keep, len(size))
    unit = normalised(features)
    content, place = distances(unit[gone], unit[keep], grid[gone], grid[keep])
    nearest = joint(content, place, [median(content), median(place)], 1.0).argmin(1)  # [N - K]
    return size[keep].index_add(0, nearest, size[gone]).log()


def merged(values: Tensor, size: Tensor, cutting: Cutting) -> Tensor:
    """[K, D]: the means of those `values` [N, D] that a kept token takes in.

    By the cutting's own weights, or by `size` [N].
    """
    assert cutting.into is not None
    size = size if cutting.weight is None else cutting.weight.float()
    into, count = torch.searchsorted(cutting.keep, cutting.into), len(cutting.keep)
    weighted = torch.zeros((count, values.shape[1]), device=values.device)
    weighted.index_add_(0, into, values.float() * size[:, None])
    weights = torch.zeros(count, device=values.device).index_add(0, into, size)
    return (weighted / weights[:, None]).to(values.dtype)
