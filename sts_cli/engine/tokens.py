"""The tokens of a batch of prompts, as they travel through the language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Keys:
    """The tokens that a span of layers holds in its cache, as attention sees them."""

    mask: Tensor  # [B, L] bool; False is left padding
    log_size: Tensor | None = None  # [B, L]; see Tokens

    def rows(self, index: Tensor) -> Keys:
        """Only the prompts `index`."""
        size = self.log_size
        return Keys(self.mask[index], None if size is None else size[index])

    def followed(self, new: Tensor) -> Keys:
        """With new tokens of mask `new` [B, n] after them, each of which stands for itself."""
        size = self.log_size
        if size is not None:
            size = torch.cat([size, torch.zeros_like(new, dtype=size.dtype)], dim=1)
        return Keys(torch.cat([self.mask, new], dim=1), size)


@dataclass(frozen=True)
class Tokens:
    """B prompts of at most L tokens each, padded on the left.

    Everything that must shrink when tokens are dropped lives here, so that pruning is `keep`.
    """

    hidden: Tensor  # [B, L, D]
    mask: Tensor  # [B, L] bool; False is left padding
    positions: Tensor  # [P, B, L]; P is 1 (RoPE) or 3 (M-RoPE); never renumbered
    image: Tensor  # [B, L]; which image of its prompt a token shows, -1 for text
    run: Tensor  # [B, L]; which unbroken run of visual tokens a token is in, -1 for text
    grid: Tensor  # [B, L, 2]; row and column in the image, each in 0..1; 0 for text
    log_size: Tensor | None = None  # [B, L]; log of how many tokens each stands for; None: itself
    residuals: tuple[Tensor, ...] = ()  # [B, L, D] each, added after layers 0, 1, ... (DeepStack)

    @property
    def visual(self) -> Tensor:
        """[B, L] bool: tokens that show an image."""
        return self.image >= 0

    @property
    def keys(self) -> Keys:
        """These tokens, as attention sees them."""
        return Keys(self.mask, self.log_size)

    @property
    def instruction(self) -> Tensor:
        """[B, L] bool: text after the last image, which alone can attend to every visual token."""
        seen = self.visual.cumsum(1)
        return self.mask & ~self.visual & (seen == seen[:, -1:])

    def keep(self, keep: Tensor) -> Tokens:
        """Only the tokens where `keep` [B, L] is True, in their order, each row packed right."""
        keep = keep & self.mask
        if bool(keep.all()):
            return self
        longest = int(keep.sum(1).max())
        index = keep.int().argsort(dim=1, stable=True)[:, -longest:]  # [B, longest]
        mask = keep.gather(1, index)
        # Padding slots hold dropped tokens' data: they must not look visual, or be anywhere.
        return Tokens(
            hidden=take(self.hidden, index),
            mask=mask,
            positions=torch.stack([take(axis, index) for axis in self.positions]),
            image=take(self.image, index).masked_fill(~mask, -1),
            run=take(self.run, index).masked_fill(~mask, -1),
            grid=take(self.grid, index),
            log_size=None if self.log_size is None else take(self.log_size, index),
            residuals=tuple(take(residual, index) for residual in self.residuals),
        )


def take(values: Tensor, index: Tensor) -> Tensor:
    """`values` [B, L] or [B, L, D] at `index` [B, K] of its second dimension."""
    if values.ndim == 3:
        index = index[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index)


def text(hidden: Tensor, positions: Tensor) -> Tokens:
    """Freshly generated text tokens: `hidden` [B, 1, D] at `positions` [P, B]."""
    batch = hidden.shape[0]
    none = torch.full((batch, 1), -1, device=hidden.device)
    return Tokens(
        hidden=hidden,
        mask=torch.ones((batch, 1), dtype=torch.bool, device=hidden.device),
        positions=positions[..., None],
        image=none,
        run=none,
        grid=hidden.new_zeros((batch, 1, 2), dtype=torch.float32),
    )
