"""The choice of images' visual tokens before the first layer: each image has a budget of its own.

It is remembered, since it does not depend on the question, unless the method asks for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sts_cli.engine.choosing import Chosen, checked, exactly, joined, ranges
from sts_cli.engine.sizes import log_sizes
from sts_cli.families.default import Encoded, Prompt
from sts_cli.profile import Cut, Energy, most
from sts_cli.pruning import (
    OF_ENCODER,
    OF_QUESTION,
    Candidates,
    Cutting,
    Following,
    Method,
    Together,
)

LOOP_BYTES = 32 << 20  # of the images' matrices [N, N] that share a loop


class Choices:
    """Choices before the first layer, by image: made once, as long as the image is remembered."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Encoded, dict[str, Chosen]] = WeakKeyDictionary()

    def knows(self, image: Encoded, key: str) -> bool:
        """True if the choice known as `key` is made."""
        return key in self._made.get(image, ())

    def of(self, image: Encoded, key: str, choose: Callable[[], Chosen]) -> Chosen:
        """The choice known as `key`, made by `choose` if it is new."""
        made = self._made.setdefault(image, {})
        if key not in made:
            made[key] = choose()
        return made[key]


def choose_images(
    method: Method,
    cut: Cut,
    prompt: Prompt,
    words: Tensor,
    products: Tensor | None,
    choices: Choices,
    proportional: bool,
) -> Chosen:
    """A row after a cut before the first layer: each image has its own budget.

    `products` [H, N] are of all its visual tokens.
    """
    made: list[Chosen] = []
    parts = ranges([len(image.features) for image in prompt.images])
    for number, (image, part) in enumerate(zip(prompt.images, parts, strict=True)):
        own = None if products is None else products[:, part[0] : part[-1] + 1]
        guide = prompt.guide[number] if "guide" in method.needs else None
        choose = partial(choose_image, method, cut, image, words, own, guide, proportional)
        made.append(
            choose() if asks(method) else choices.of(image, key_of(cut, proportional), choose)
        )
    if len(made) == 1:
        return made[0]
    sizes = [one.log_size for one in made if one.log_size is not None]
    return Chosen(
        joined(list(zip(parts, [one.cutting for one in made], strict=True))),
        torch.cat(sizes) if sizes else None,
        [count for one in made for count in one.counts],
    )


def key_of(cut: Cut, proportional: bool) -> str:
    """What a choice for an image is known as."""
    return f"{cut} {proportional}"


def asks(method: type[Method] | Method) -> bool:
    """True if what `method` keeps depends on the question."""
    return any(need in OF_QUESTION for need in method.needs)


def choose_together(
    method: Method, cut: Cut, prompts: Sequence[Prompt], choices: Choices, proportional: bool
) -> None:
    """Make the choices before the first layer for all new images of a batch, in one loop.

    Only where the method can and the question does not matter; otherwise, each is made alone.
    """
    if asks(method) or isinstance(cut.keep, Energy) or not hasattr(method, "cuts"):
        return
    key = key_of(cut, proportional)
    groups: dict[int, list[Encoded]] = {}
    for image in {id(one): one for prompt in prompts for one in prompt.images}.values():
        if not choices.knows(image, key):
            groups.setdefault(len(image.features), []).append(image)
    for total, images in groups.items():
        count = most(cut.keep, total, total)
        if count >= total:
            continue
        at_once = max(1, LOOP_BYTES // (4 * total**2))
        for start in range(0, len(images), at_once):
            part = images[start : start + at_once]
            looks = [look_at(method, image) for image in part]
            cuttings = cast(Together, method).cuts(looks, count)
            for image, look, cutting in zip(part, looks, cuttings, strict=True):
                made = partial(sized, look, checked(method, cutting, count), proportional)
                choices.of(image, key, made)


def choose_image(
    method: Method,
    cut: Cut,
    image: Encoded,
    words: Tensor,
    products: Tensor | None,
    guide: Tensor | None,
    proportional: bool,
) -> Chosen:
    """One image after a cut before the first layer."""
    look = look_at(method, image, words, products, guide)
    if isinstance(cut.keep, Energy):
        cutting = following(cast(Following, method), look, cut.keep)
    else:
        total = len(image.features)
        cutting = exactly(method, look, most(cut.keep, total, total))
    return sized(look, cutting, proportional)


def look_at(
    method: Method,
    image: Encoded,
    words: Tensor | None = None,
    products: Tensor | None = None,
    guide: Tensor | None = None,
) -> Candidates:
    """An image's tokens as `method` sees them before the first layer."""
    total, device = len(image.features), image.features.device
    return Candidates(
        features=image.features,
        grid=image.grid,
        image=torch.zeros(total, dtype=torch.long, device=device),
        size=torch.ones(total, device=device),
        question=words if "question" in method.needs else None,
        seed=image.pixels.seed if "seed" in method.needs else None,
        products=products,
        guide=guide,
        **{need: image.attention[need] for need in OF_ENCODER if need in method.needs},
    )


def sized(look: Candidates, cutting: Cutting, proportional: bool) -> Chosen:
    """The choice for one image, with what each kept token stands for."""
    size = None
    if proportional:
        one = torch.zeros(len(look.features), device=look.features.device)  # each stands for itself
        size = log_sizes(look.features, look.grid, one, cutting)
    return Chosen(cutting, size, [len(cutting.keep)])


def following(method: Following, look: Candidates, keep: Energy) -> Cutting:
    """The method's first tokens that hold enough of the image's energy, within the bounds.

    Waits for the device, once for an image: only there is it known how many these are.
    """
    total = len(look.features)
    low, high = keep.bounds(total)
    if keep.energy == 1 or low == high:
        return exactly(method, look, high)
    trail = method.trail(look, high)
    enough = (trail.left <= 1 - keep.energy).tolist()
    count = enough.index(True) + 1 if True in enough else high
    return Cutting(trail.order[: max(low, count)].sort().values)
