"""Proportional attention: a token that is left counts as much as the tokens that it stands for.

Where tokens are dropped, what is left of an image weighs too little in every softmax, and what was
kept densely, such as signs and shapes, weighs too much beside the background. Adding the logarithm
of a token's size to its attention logits mends both; a token that stands for n equal ones is then
attended to exactly as they were. The bias is ToMe's (arXiv 2210.09461), which merges tokens; we
drop them, and count each for the kept one nearest to it in content and place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sts_cli.pruning.repulsion import middle


def log_sizes(features: Tensor, places: Tensor, log_size: Tensor, keep: Tensor) -> Tensor:
    """[K] float: logarithms of how many tokens each of the kept ones stands for.

    `features` [N, D], `places` [N, 3] (image, row and column in 0..1), `log_size` [N] as it was,
    `keep` [N] bool with K > 0 True. A dropped token counts for the kept one of its own image
    whose joint distance (`repulsion`'s, with spatial 1) is least. O(N K D) time.
    """
    count = int(keep.sum())
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    content = (2 - 2 * unit @ unit[keep].mT).clamp(min=0)  # [N, K]
    away = torch.cdist(places[:, 1:], places[keep, 1:]).square() / 2
    distance = content / middle(content) + away / middle(away)
    nearest = distance.masked_fill(places[:, :1] != places[keep, 0], torch.inf).argmin(1)
    nearest[keep] = torch.arange(count, device=keep.device)
    return log_size.new_zeros(count).index_add_(0, nearest, log_size.exp()).log()
