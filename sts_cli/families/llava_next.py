"""LLaVA-NeXT and LLaVA-OneVision: the whole image, then its tiles with newline tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import Tensor

from sts_cli.families.default import Encoded, Family, Pixels
from sts_cli.families.places import WHOLE, Part, with_newlines
from sts_cli.pruning import Need


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

    def encode(
        self, pixels: Sequence[Pixels], encoder: Any = None, watch: Collection[Need] = ()
    ) -> list[Encoded]:
        single = [image for image in pixels if len(image.inputs["image_sizes"]) == 1]
        encoded = dict(zip(map(id, single), super().encode(single, encoder, watch), strict=True))
        for image in pixels:
            if id(image) not in encoded:
                twice = replace(image, count=2 * image.count)
                pair = super().encode([twice], encoder, watch)[0]
                features, grid = pair.features[: image.count], self.places(image)
                attention = {need: got[: image.count] for need, got in pair.attention.items()}
                encoded[id(image)] = Encoded(features, grid, (), image, attention)
        return [encoded[id(image)] for image in pixels]
