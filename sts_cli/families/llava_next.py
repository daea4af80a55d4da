"""LLaVA-NeXT and LLaVA-OneVision: the whole image, then its parts with newline tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from torch import Tensor

from sts_cli.families.default import Encoded, Family, Pixels
from sts_cli.families.places import with_newlines


class LlavaNext(Family):
    """Tiles are packed into one picture of rows; each row ends in a newline token."""

    def places(self, pixels: Pixels) -> Tensor:
        vision = self.model.config.vision_config
        return with_newlines(
            pixels.count, (vision.image_size // vision.patch_size) ** 2, pixels.size
        )


class LlavaOnevision(LlavaNext):
    """Only an image that is alone in its question is cut into tiles."""

    alone_differs = True

    def pixels(self, image: Image.Image, alone: bool = True) -> Pixels:
        """The processor tells by the number of images: one of several is shown as a pair."""
        return self._processed([image] if alone else [image, image], image.size)

    def encode(self, pixels: Sequence[Pixels]) -> list[Encoded]:
        alone = [one for one in pixels if len(one.inputs["image_sizes"]) == 1]
        encoded = dict(zip(map(id, alone), super().encode(alone), strict=True))
        for one in pixels:
            if id(one) not in encoded:
                pair = super().encode([replace(one, count=2 * one.count)])[0]
                encoded[id(one)] = replace(
                    pair, features=pair.features[: one.count], grid=self.places(one), pixels=one
                )
        return [encoded[id(one)] for one in pixels]
