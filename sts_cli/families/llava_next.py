"""LLaVA-NeXT and LLaVA-OneVision: the whole image, then its tiles with newline tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import Tensor

from sts_cli.families.default import Encoded, Family, Pixels
from sts_cli.families.places import WHOLE, Part, with_newlines


class LlavaNext(Family):
    """The tiles' tokens are merged into one grid; each row of it ends in a newline token."""

    def shown(self, size: tuple[int, int]) -> Part:
        return WHOLE  # every tile has the size to which its processor would crop it

    def places(self, pixels: Pixels) -> Tensor:
        vision = self.model.config.vision_config
        return with_newlines(
            pixels.count, (vision.image_size // vision.patch_size) ** 2, pixels.size
        )


class LlavaOnevision(LlavaNext):
    """Only a question's single image is cut into tiles."""

    single_differs = True

    def pixels(self, image: Image.Image, single: bool = True) -> Pixels:
        """As in Family. The processor only cuts a single image, so others are passed as a pair."""
        return self._processed([image] if single else [image, image], image.size)

    def encode(self, pixels: Sequence[Pixels], encoder: Any = None) -> list[Encoded]:
        single = [image for image in pixels if len(image.inputs["image_sizes"]) == 1]
        encoded = dict(zip(map(id, single), super().encode(single, encoder), strict=True))
        for image in pixels:
            if id(image) not in encoded:
                pair = super().encode([replace(image, count=2 * image.count)], encoder)[0]
                features, grid = pair.features[: image.count], self.places(image)
                encoded[id(image)] = replace(pair, features=features, grid=grid, pixels=image)
        return [encoded[id(image)] for image in pixels]
