"""Views of questions' images: fewer pixels, the images of another question, none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from PIL import Image

from sts_cli.evaluation.conditions import Condition
from sts_cli.families.default import Family
from sts_cli.inputs.images import Prepared
from sts_cli.profile import Amount, budget

View = Callable[[Sequence[Prepared]], list[Prepared]]


def view_of(condition: Condition, family: Family) -> View:
    """What a condition makes of some questions."""
    if condition.view == "downsampled":
        return partial(downsampled, condition.keep, family)
    views: dict[str, View] = {"whole": list, "another": another, "none": none}
    return views[condition.view]


def downsampled(keep: Amount, family: Family, questions: Sequence[Prepared]) -> list[Prepared]:
    """The questions about images with the pixels of `keep` of their tokens.

    A model of a fixed resolution enlarges them again; one that follows the image needs fewer
    tokens. An image that the model's processor refuses stays as it is.
    """
    return [
        replace(
            one,
            images=tuple(fewer_pixels(image, keep, family) for image in one.images),
            digests=tuple(f"{digest} {keep}" for digest in one.digests),
        )
        for one in questions
    ]


def fewer_pixels(image: Image.Image, keep: Amount, family: Family) -> Image.Image:
    """The image with as many pixels as `keep` of the model's tokens for it stand for, at most."""
    try:
        pixels = family.pixels(image)
    except Exception:  # told in the answer: the processor will refuse it again
        return image
    frames = getattr(family.model.config.vision_config, "temporal_patch_size", 1)
    seen = pixels.inputs["pixel_values"].numel() / 3 / frames
    share = budget(keep, pixels.count) / pixels.count
    scale = min(1.0, (share * seen / (image.width * image.height)) ** 0.5)
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    return image.resize(size, Image.Resampling.LANCZOS)


def another(questions: Sequence[Prepared]) -> list[Prepared]:
    """Each question with the images of the next one that has others, or with a grey image."""
    return [
        replace(one, images=images, digests=digests) if one.images else one
        for one, (images, digests) in (
            (one, others(one, [*questions[number:], *questions[:number]]))
            for number, one in enumerate(questions)
        )
    ]


def others(
    one: Prepared, questions: Sequence[Prepared]
) -> tuple[tuple[Image.Image, ...], tuple[str, ...]]:
    """The images of the first of `questions` that has images, none of them its own."""
    for other in questions:
        if other.images and not set(other.digests) & set(one.digests):
            return other.images, other.digests
    grey = tuple(Image.new("RGB", image.size, (128, 128, 128)) for image in one.images)
    return grey, tuple(f"grey {image.size}" for image in grey)


def none(questions: Sequence[Prepared]) -> list[Prepared]:
    """The questions alone. Those with a problem keep it."""
    return [
        replace(one, item=replace(one.item, images=()), images=(), digests=()) for one in questions
    ]
