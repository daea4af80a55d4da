"""Questions whose images are being preprocessed."""

from __future__ import annotations

from dataclasses import dataclass

from sts_cli.answering.features import FeatureCache, ImageFeatures
from sts_cli.inputs.images import Prepared
from sts_cli.records import Item


@dataclass(frozen=True, eq=False)
class Question:
    """One item whose images are on their way through the preprocessing threads.

    It does not hold the decoded images: once preprocessed, nobody does.
    """

    number: int
    item: Item
    decoding: float  # seconds
    pictures: tuple[ImageFeatures, ...]
    new: tuple[ImageFeatures, ...]  # those that this question was the first to ask about
    guided: tuple[ImageFeatures, ...] = ()  # the same images, as a guide sees them

    @property
    def ready(self) -> bool:
        return all(picture.ready for picture in (*self.pictures, *self.guided))

    @property
    def image_seconds(self) -> float:
        return self.decoding + sum(picture.seconds for picture in self.new)


def question_of(
    number: int, ready: Prepared, images: FeatureCache, guide: FeatureCache | None = None
) -> Question:
    """The question that an item asks; those of its images that are new start preprocessing.

    `guide` are the images as a guide sees them, if it will be asked.
    """
    pictures, new = expected(ready, images)
    guided, seen = expected(ready, guide) if guide is not None else ((), ())
    return Question(number, ready.item, ready.seconds, pictures, (*new, *seen), guided)


def expected(
    ready: Prepared, images: FeatureCache
) -> tuple[tuple[ImageFeatures, ...], tuple[ImageFeatures, ...]]:
    """An item's pictures, and those of them that are new."""
    seen = [
        images.expect(digest, image, len(ready.images) == 1)
        for digest, image in zip(ready.digests, ready.images, strict=True)
    ]
    new = tuple(picture for picture, fresh in seen if fresh)
    return tuple(picture for picture, _ in seen), new
