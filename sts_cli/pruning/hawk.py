"""HAWK (arXiv 2604.07812, CVPR 2026): layer 0 compares words and tokens, head by head.

Before the first layer, its queries of the words and its keys of the visual tokens are multiplied
without RoPE, mean over the words. Each head's scores are divided by their length over the tokens,
then summed with a weight for each head. The authors publish weights for Qwen2.5-VL-7B only, from an
ablation of its heads; elsewhere all heads weigh the same. The words are all tokens after the last
image, also the template's, where the authors stop at the end of the user's turn. Positions stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sts_cli.pruning import Candidates, Cutting, Need
from sts_cli.pruning.instruction import most

# fmt: off
QWEN = (
    0.0875, 0.3, 0.048, 0.0321, 0.0104, 0.0102, 0.0336, 0.046, 0.054, 0.0472, 0.0234, 0.0537,
    0.0109, 0.0573, 0.0276, 0.0403, 0.0429, 0.0352, 0.0162, 0.0519, 0.0553, 0.0266, 0.0222, 0.048,
    0.0337, 0.025, 0.0, 0.0224,
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Hawk:
    """Tokens whose keys fit the words' queries in the next layer, without RoPE, by head.

    `heads` are the weights of the heads: all the same, or those published for Qwen2.5-VL-7B.
    """

    needs: ClassVar[tuple[Need, ...]] = ("products",)
    source: ClassVar[str] = "HAWK, arXiv 2604.07812"
    heads: Literal["uniform", "qwen2.5-vl-7b"] = "uniform"

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        import torch

        assert candidates.products is not None
        scores = candidates.products
        scores = scores / scores.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        weights = torch.ones(len(scores)) if self.heads == "uniform" else torch.tensor(QWEN)
        return Cutting(most(weights.to(scores.device) @ scores, count))

    def unfit(self, config: Any) -> str | None:
        """The reason why these weights do not fit the language model of `config`, or None."""
        kind, heads = config.model_type, config.num_attention_heads
        if self.heads == "uniform" or (kind == "qwen2_5_vl_text" and heads == len(QWEN)):
            return None
        return (
            f"heads '{self.heads}' weighs the {len(QWEN)} heads of Qwen2.5-VL-7B; this is '{kind}' "
            f"with {heads}. Use heads: uniform"
        )
