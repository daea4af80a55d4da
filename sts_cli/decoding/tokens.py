"""The tokens of a batch of prompts, between the layers of the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IDLE = -2  # the segment of features that only text before the first image reads (Mllama)


@dataclass(frozen=True)
class Keys:
    """The tokens that a layer attends to, in the order of the cache."""

    mask: Tensor  # [B, L] bool; False is padding
    padded: bool  # True if there is padding; known without waiting for the device
    log_size: Tensor | None = None  # [B, L]; see Tokens

    def rows(self, index: Tensor) -> Keys:
        """The keys of the prompts at `index` [K]."""
        size = self.log_size
        return Keys(self.mask[index], self.padded, None if size is None else size[index])

    def appended(self, new: Keys) -> Keys:
        """These keys, then `new`; a token without a size stands for itself alone."""
        size = None
        if self.log_size is not None or new.log_size is not None:
            size = torch.cat([sizes_of(self), sizes_of(new)], dim=1)
        return Keys(torch.cat([self.mask, new.mask], dim=1), self.padded or new.padded, size)

    def joined(self, other: Keys) -> Keys:
        """The prompts of these keys, then those of `other`, as long as the longest of them.

        Columns before the first token of every row are dropped. Waits for the device.
        """
        batch = [self, other]
        longest = max(keys.mask.shape[1] - int(keys.mask.int().argmax(1).min()) for keys in batch)
        size = None
        if self.log_size is not None or other.log_size is not None:
            size = torch.cat([last(sizes_of(keys), longest, 1) for keys in batch])
        mask = torch.cat([last(keys.mask, longest, 1) for keys in batch])
        return Keys(mask, not bool(mask.all()), size)


def last(values: Tensor, length: int, dim: int) -> Tensor:
    """The last `length` items of `values` along `dim`, after zeros if there are fewer."""
    missing = length - values.shape[dim]
    if missing <= 0:
        return values.narrow(dim, -missing, length)
    shape = [*values.shape[:dim], missing, *values.shape[dim + 1 :]]
    return torch.cat([values.new_zeros(shape), values], dim)


def sizes_of(keys: Keys) -> Tensor:
    """Log sizes [B, L] float32; 0 for keys without sizes."""
    if keys.log_size is not None:
        return keys.log_size
    return torch.zeros(keys.mask.shape, device=keys.mask.device)


@dataclass(frozen=True)
class Tokens:
    """B prompts of at most L tokens each, padded on the left.

    All tensors that shrink when tokens are dropped are here, so one call of `keep` prunes them.
    After `followed_by` there may be padding in the middle, until the next `keep`.
    """

    hidden: Tensor  # [B, L, D]
    mask: Tensor  # [B, L] bool; False is padding
    padded: bool  # True if there is padding; known without waiting for the device
    positions: Tensor  # [P, B, L]; P is 1 (RoPE) or 3 (M-RoPE); never renumbered
    image: Tensor  # [B, L]; index of the token's image in its prompt, -1 for text
    segment: Tensor  # [B, L]; index of its segment of adjacent visual tokens, -1 for text, IDLE
    grid: Tensor  # [B, L, 2]; row and column in the image, each in 0..1; 0 for text
    log_size: Tensor | None = None  # [B, L]; log of the number of tokens each stands for; None: 1
    residuals: tuple[Tensor, ...] = ()  # [B, L, D] each, added after layers 0, 1, ... (DeepStack)

    @property
    def visual(self) -> Tensor:
        """True for visual tokens, [B, L] bool."""
        return self.image >= 0

    @property
    def idle(self) -> Tensor:
        """True for features that only text before the first image reads, [B, L] bool."""
        return self.segment == IDLE

    @property
    def keys(self) -> Keys:
        """These tokens, as attention sees them."""
        return Keys(self.mask, self.padded, self.log_size)

    def keep(self, keep: Tensor, counts: Sequence[int]) -> Tokens:
        """The tokens where `keep` [B, L] is True, in their order, padded on the left.

        `counts` is the number of these in each row, so that nothing waits for the device.
        """
        longest = max(counts)
        index = (keep & self.mask).int().argsort(dim=1, stable=True)[:, -longest:]  # [B, longest]
        slot = torch.arange(longest)
        mask = slot >= longest - torch.tensor(list(counts))[:, None]
        mask = mask.to(self.mask.device)
        # Padding slots hold data of dropped tokens: they must not count as visual tokens.
        return Tokens(
            hidden=take(self.hidden, index),
            mask=mask,
            padded=min(counts) < longest,
            positions=torch.stack([take(axis, index) for axis in self.positions]),
            image=take(self.image, index).masked_fill(~mask, -1),
            segment=take(self.segment, index).masked_fill(~mask, -1),
            grid=take(self.grid, index),
            log_size=None if self.log_size is None else take(self.log_size, index),
            residuals=tuple(take(residual, index) for residual in self.residuals),
        )

    def rows(self, index: Tensor) -> Tokens:
        """The prompts at `index` [K], of which each may come several times."""
        size = self.log_size
        return Tokens(
            hidden=self.hidden[index],
            mask=self.mask[index],
            padded=self.padded,
            positions=self.positions[:, index],
            image=self.image[index],
            segment=self.segment[index],
            grid=self.grid[index],
            log_size=None if size is None else size[index],
            residuals=tuple(residual[index] for residual in self.residuals),
        )

    def followed_by(self, text: Tokens) -> Tokens:
        """Each prompt's tokens, then those of `text`, which has no visual ones."""
        return Tokens(
            hidden=torch.cat([self.hidden, text.hidden], 1),
            mask=torch.cat([self.mask, text.mask], 1),
            padded=self.padded or text.padded,
            positions=torch.cat([self.positions, text.positions], 2),
            image=torch.cat([self.image, text.image], 1),
            segment=torch.cat([self.segment, text.segment], 1),
            grid=torch.cat([self.grid, text.grid], 1),
            log_size=self.keys.appended(text.keys).log_size,
            residuals=tuple(
                torch.cat(pair, 1) for pair in zip(self.residuals, text.residuals, strict=True)
            ),
        )


def take(values: Tensor, index: Tensor) -> Tensor:
    """The items of `values` [B, L] or [B, L, D] at `index` [B, K] of dimension 1."""
    if values.ndim == 3:
        index = index[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index)


def text_tokens(hidden: Tensor, positions: Tensor) -> Tokens:
    """New text tokens, one per prompt: `hidden` [B, 1, D] at `positions` [P, B]."""
    batch = hidden.shape[0]
    none = torch.full((batch, 1), -1, device=hidden.device)
    return Tokens(
        hidden=hidden,
        mask=torch.ones((batch, 1), dtype=torch.bool, device=hidden.device),
        padded=False,
        positions=positions[..., None],
        image=none,
        segment=none,
        grid=hidden.new_zeros((batch, 1, 2), dtype=torch.float32),
    )
