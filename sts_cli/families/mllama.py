"""Mllama (Llama 3.2 Vision): features of tiles, which cross-attention layers read."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.mllama.processing_mllama import build_string_from_input

from sts_cli.decoding.tokens import IDLE, Tokens
from sts_cli.families.default import Encoded, Family, Pixels, Prompt
from sts_cli.families.inputs import batched
from sts_cli.families.places import Part, raster
from sts_cli.pruning import Need


class Mllama(Family):
    """An image's word stays in the prompt, as text; before it stand the features of its tiles.

    transformers pads an image to as many tiles as the model has room for. Text before the first
    image reads the features of those empty tiles too, and nothing else does: they are `idle`, not
    counted, and go with the first cut that drops anything.
    """

    def pixels(self, image: Image.Image, single: bool = True) -> Pixels:
        outputs = self.processor.image_processor(images=[[image]], return_tensors="pt")
        ((tiles,),) = outputs.pop("num_tiles")
        inputs = dict(outputs)
        every = inputs["pixel_values"].shape[2] * self.per_tile
        return Pixels(
            inputs,
            replacement=self.processor.image_token * (every + 1),
            count=int(tiles) * self.per_tile,
            size=image.size,
            shown=self.canvas(inputs, image.size),
        )

    def rendered(self, content: Sequence[dict[str, str]]) -> str:
        """As in Family, with the token that begins texts, as the processor writes it."""
        text, first = super().rendered(content), self.tokenizer.bos_token
        return build_string_from_input(text, first, self.processor.image_token) if first else text

    def needs_special_tokens(self, prompt: str) -> bool:
        return self.tokenizer.bos_token is None

    @property
    def per_tile(self) -> int:
        """The features of a tile: of its patches, after one of the class token."""
        vision = self.model.config.vision_config
        return int((vision.image_size // vision.patch_size) ** 2 + 1)

    def tiles(self, inputs: dict[str, Tensor]) -> tuple[int, int]:
        """The rows and columns of tiles that an image is cut into."""
        number = int(inputs["aspect_ratio_ids"].item())
        rows, columns = self.model.config.vision_config.supported_aspect_ratios[number - 1]
        return rows, columns

    def canvas(self, inputs: dict[str, Tensor], size: tuple[int, int]) -> Part:
        """The tiles as a part of the image: they reach beyond its right or lower border."""
        side = self.model.config.vision_config.image_size
        rows, columns = self.tiles(inputs)
        room = columns * side, rows * side
        width, height = size
        scale = min(
            min(max(length, side), most) / length for length, most in zip(size, room, strict=True)
        )
        return 0.0, 0.0, max(1.0, room[1] / (height * scale)), max(1.0, room[0] / (width * scale))

    def places(self, pixels: Pixels) -> Tensor:
        """As in Family, in the canvas of tiles.

        The class tokens show no part of the image: they stand at its right border, as line ends do.
        """
        rows, columns = self.tiles(pixels.inputs)
        side = round((self.per_tile - 1) ** 0.5)
        inside = raster(side, side)
        corners = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        scale = torch.tensor([rows, columns])
        patches = (corners[:, None] + inside) / scale  # [tiles, patches, 2]
        border = torch.full((len(corners), 1), 1 / pixels.shown[3])
        middle = torch.cat([(corners[:, :1] + 0.5) / rows, border], dim=1)
        return torch.cat([middle[:, None], patches], dim=1).flatten(0, 1)

    def encode(
        self, pixels: Sequence[Pixels], encoder: Any = None, watch: Collection[Need] = ()
    ) -> list[Encoded]:
        if not pixels:
            return []
        model = self.model.model
        inputs = batched([image.inputs for image in pixels], self.model.device, self.model.dtype)
        with warnings.catch_warnings():  # before 5.20, transformers warned of a call of its own
            warnings.simplefilter("ignore", FutureWarning)
            seen = model.vision_model(**inputs).last_hidden_state  # [B, 1, tiles, patches, D]
        features = model.multi_modal_projector(seen).flatten(1, 3)
        return [
            Encoded(
                features=whole[: image.count],
                grid=self.places(image).to(self.model.device),
                deepstack=(),
                pixels=image,
                idle=whole[image.count :],
            )
            for whole, image in zip(features, pixels, strict=True)
        ]

    def embed(self, prompts: Sequence[Prompt]) -> Tokens:
        """The prompts as one batch: each image's features, idle ones, then its word."""
        device = self.model.device
        lengths = [len(prompt.ids) for prompt in prompts]
        shape = len(prompts), max(lengths)
        ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        image, segment = np.full(shape, -1), np.full(shape, -1)
        for row, prompt in enumerate(prompts):
            start = shape[1] - len(prompt.ids)
            ids[row, start:], mask[row, start:] = prompt.ids, True
            here, group, end = start, -1, -1
            for number, encoded in enumerate(prompt.images):
                here += int(np.argmax(ids[row, here:] == self.image_token_id))
                group += here != end  # images with no word between them are one group
                idle = here + len(encoded.features)
                end = idle + (0 if encoded.idle is None else len(encoded.idle)) + 1
                image[row, here:idle] = number
                segment[row, here:idle], segment[row, idle : end - 1] = group, IDLE
                here = end
        words = mask & (segment == -1)
        # A feature has the position of its image's word, the first that may read it.
        positions = words.cumsum(1) - words
        images = [encoded for prompt in prompts for encoded in prompt.images]
        hidden = self.embedding(torch.from_numpy(np.where(words, ids, 0)).to(device))
        grid = torch.zeros((*shape, 2), device=device)
        for which, parts in (
            (image >= 0, [encoded.features for encoded in images]),
            (segment == IDLE, [one.idle for one in images if one.idle is not None]),
        ):
            if parts:
                where = tuple(torch.from_numpy(index).to(device) for index in np.nonzero(which))
                hidden = hidden.index_put(where, torch.cat(parts).to(hidden.dtype))
        if images:
            where = tuple(torch.from_numpy(index).to(device) for index in np.nonzero(image >= 0))
            grid = grid.index_put(where, torch.cat([encoded.grid for encoded in images]))
        on_device = (torch.from_numpy(one).to(device) for one in (mask, image, segment, positions))
        device_mask, device_image, device_segment, device_positions = on_device
        return Tokens(
            hidden=hidden,
            mask=device_mask,
            padded=min(lengths) < shape[1],
            positions=device_positions[None],
            image=device_image,
            segment=device_segment,
            grid=grid,
        )
