"""LLaVA-NeXT and LLaVA-OneVision: the whole image, then its parts with newline tokens."""

from __future__ import annotations

from torch import Tensor

from sts_cli.families.default import Family, Pixels
from sts_cli.families.places import with_newlines


class LlavaNext(Family):
    """Tiles are packed into one picture of rows; each row ends in a newline token."""

    def places(self, pixels: Pixels) -> Tensor:
        vision = self.model.config.vision_config
        return with_newlines(
            pixels.count, (vision.image_size // vision.patch_size) ** 2, pixels.size
        )
