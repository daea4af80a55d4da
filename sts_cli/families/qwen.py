"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: M-RoPE, images of any size, DeepStack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sts_cli.families.default import Encoded, Family, Pixels
from sts_cli.families.places import raster


class Qwen(Family):
    """The model computes positions (time, row, column); each token is a block of patches."""

    def places(self, pixels: Pixels) -> Tensor:
        merge = self.model.config.vision_config.spatial_merge_size
        _, rows, columns = pixels.inputs["image_grid_thw"][0].tolist()
        return raster(rows // merge, columns // merge)

    def positions(
        self, ids: Tensor, mask: Tensor, visual: Tensor, images: Sequence[Encoded]
    ) -> Tensor:
        grids = [encoded.pixels.inputs["image_grid_thw"] for encoded in images]
        positions, _ = self.model.model.get_rope_index(
            input_ids=ids,
            attention_mask=mask.long(),
            mm_token_type_ids=visual.int(),
            image_grid_thw=torch.cat(grids).to(ids.device) if grids else None,
        )
        return positions
