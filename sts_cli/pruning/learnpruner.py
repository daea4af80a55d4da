"""LearnPruner (arXiv 2604.23950, ICLR 2026), its first stage: a learned scorer after the encoder.

A small network scores each token; a tenth of the budget goes to tokens that differ. No code is
public, and we had only the abstract and second-hand notes, which tell of 0.53 M parameters. So
these are our choices: the network (layer norm, one hidden layer with GELU, for each token by
itself), its input (the features after the projector), what it learns (the attention that a whole
answer pays to each token; `demo_model/scorer.py`), and the tenth: the token least like any that is
kept, again and again. The second stage is a second cut by `instruction`, at 3/8 of the depth, to a
third.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from sts_cli.errors import ProfileError
from sts_cli.pruning import Candidates, Cutting, File, Need, Range
from sts_cli.pruning.instruction import most
from sts_cli.pruning.repulsion import normalised

if TYPE_CHECKING:
    from torch import Tensor

DEMO = "demo"
SHIPPED = Path(__file__).with_name("learnpruner.safetensors")
METHOD = "learnpruner"  # what a scorer's file says that it is for
NORM, BIAS, HIDDEN, INNER, SCORE = "norm", "norm_bias", "hidden", "hidden_bias", "score"
TYPES = ("F16", "F32")


@dataclass(frozen=True, slots=True)
class Learnpruner:
    """Tokens that a trained scorer rates highest, and some that differ from these.

    `scorer` is the file of a scorer, which fits the model that it was trained for and no other;
    "demo" is that of the demo model. `diverse` is the share of the kept tokens that only differ.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "LearnPruner, arXiv 2604.23950"
    scorer: Annotated[str, File(".safetensors", DEMO)] = DEMO
    diverse: Annotated[float, Range(0, 1)] = 0.1

    @property
    def path(self) -> Path:
        """The scorer's file."""
        return SHIPPED if self.scorer == DEMO else Path(self.scorer)

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        import torch

        status = self.path.stat()
        stamp = status.st_mtime_ns, status.st_size
        weights = weights_of(self.path, stamp, str(candidates.features.device))
        best = most(rated(candidates.features, weights), max(1, round(count * (1 - self.diverse))))
        others = differing(normalised(candidates.features), best, count - len(best))
        return Cutting(torch.cat([best, others]).sort().values)

    def digests(self) -> Mapping[str, str]:
        """The digest of the scorer by its option. Raises ProfileError if it is no scorer."""
        examined(self.path)
        content = self.path.read_bytes()
        return {"scorer": hashlib.blake2b(content, digest_size=8).hexdigest()}

    def trained_for(self) -> tuple[str, str, str]:
        """The scorer's file, and the name and the weights' digest of its model."""
        told = examined(self.path)
        return str(self.scorer), told["model"], told["weights"]

    def unfit(self, config: Any) -> str | None:
        """The reason why the scorer does not fit the language model of `config`, or None."""
        width = int(examined(self.path)["width"])
        if config.hidden_size == width:
            return None
        return (
            f"the scorer {self.scorer} takes features of width {width}, and this model's have "
            f"{config.hidden_size}. Give the scorer of this model, or use another method"
        )


def rated(features: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """[N] float32: the scores of `features` [N, D] by a scorer of H hidden values.

    `weights` are norm [D], norm_bias [D], hidden [H, D], hidden_bias [H] and score [1, H].
    """
    from torch.nn import functional

    values = features.float()
    values = functional.layer_norm(values, values.shape[-1:], weights[NORM], weights[BIAS])
    values = functional.gelu(functional.linear(values, weights[HIDDEN], weights[INNER]))
    return functional.linear(values, weights[SCORE])[:, 0]


def differing(unit: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Indices [count]: each least like, by its greatest cosine, all that are chosen before it.

    `unit` [N, D] are unit features, `chosen` [C] indices to begin with.
    """
    import math

    import torch

    nearest = (unit @ unit[chosen].mT).amax(1).index_fill(0, chosen, math.inf)
    found = torch.empty(count, dtype=torch.long, device=unit.device)
    for step in range(count):
        index = nearest.argmin().view(1)
        found[step : step + 1] = index
        nearest = torch.maximum(nearest, (unit @ unit.index_select(0, index).mT)[:, 0])
        nearest.index_fill_(0, index, math.inf)  # no index is chosen twice
    return found


@lru_cache(maxsize=8)
def weights_of(path: Path, stamp: tuple[int, int], device: str) -> Mapping[str, Tensor]:
    """The tensors of a scorer, float32; `stamp` is of the file, which may be replaced."""
    from safetensors.torch import load_file

    return {name: values.float() for name, values in load_file(path, device=device).items()}


def examined(path: Path) -> Mapping[str, str]:
    """What the scorer in a file says of itself: `width` of features, `model`, `weights`.

    The last is the digest of the weights of the model that it was trained for. No torch. Raises
    ProfileError with the reason if it is not a whole scorer.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ProfileError(f"there is no file {path}")
    try:
        with safe_open(path, framework="np") as file:
            told = file.metadata() or {}
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: part.get_shape() for name, part in parts.items()}
            known = all(part.get_dtype() in TYPES for part in parts.values())
            finite = known and all(bool(np.isfinite(part[:]).all()) for part in parts.values())
    except (OSError, SafetensorError) as error:
        raise ProfileError(f"{path} cannot be read as safetensors ({error})") from error
    wanted = {"method", "width", "model", "weights"}
    if not wanted <= told.keys() or told["method"] != METHOD or not told["width"].isdecimal():
        raise ProfileError(f"{path} is no scorer of {METHOD}: its metadata do not say so")
    width, (inner, *_) = int(told["width"]), shapes.get(HIDDEN) or [0]
    expected = {NORM: [width], BIAS: [width], HIDDEN: [inner, width], INNER: [inner]}
    if shapes != {**expected, SCORE: [1, inner]} or not finite:
        raise ProfileError(
            f"{path} is a damaged scorer: its tensors are not those of width {width}"
        )
    return told
