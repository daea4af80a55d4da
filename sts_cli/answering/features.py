"""The images of a run: each distinct one preprocessed and encoded once, while it is remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from threading import Lock, Semaphore
from time import perf_counter
from typing import Any

from PIL import Image

from sts_cli.engine.engine import Engine
from sts_cli.families.default import Encoded, Pixels
from sts_cli.machine.hardware import out_of_memory
from sts_cli.profile import Narrowing, Profile
from sts_cli.records import Problem

BACKLOG = 4  # decoded images that may wait for a preprocessing thread
REFUSED_BYTES = 4 << 10  # what remembering a refusal takes
REMEMBERED_BYTES = 256 << 20  # pixels and features of images that later questions may ask about


class Refused(Exception):
    """An image that the model's processor does not take."""

    def __init__(self, problem: Problem):
        super().__init__(problem.message)
        self.problem = problem


class ImageFeatures:
    """One distinct image on its way: pixels from a worker thread, then features."""

    def __init__(self, pixels: Future[tuple[Pixels | Problem, float]]):
        self._pixels = pixels
        self.encoded: dict[Narrowing | None, Encoded] = {}  # by the `encoder` of a profile

    @property
    def ready(self) -> bool:
        return self._pixels.done()

    @property
    def pixels(self) -> Pixels:
        """Waits for the worker thread. Raises Refused for what the model's processor refuses."""
        found = self._pixels.result()[0]
        if isinstance(found, Problem):
            raise Refused(found)
        return found

    @property
    def refused(self) -> bool:
        """True if the model's processor refuses it; waits for the worker thread."""
        return isinstance(self._pixels.result()[0], Problem)

    @property
    def seconds(self) -> float:
        """Seconds of preprocessing."""
        return self._pixels.result()[1]

    @property
    def nbytes(self) -> int:
        """Memory that remembering it takes; 0 while it is on its way."""
        if not self.ready:
            return 0
        if self.refused:
            return REFUSED_BYTES
        tensors = [*self.pixels.inputs.values()]
        for one in self.encoded.values():
            tensors += [one.features, *one.deepstack, *one.attention.values()]
            tensors += [one.idle] if one.idle is not None else []
        return sum(tensor.nbytes for tensor in tensors)


class FeatureCache:
    """Pictures by the digest of their content, the least recently asked for forgotten first.

    One thread may ask for pictures while another encodes them.
    """

    def __init__(self, engine: Engine, pool: Executor, profiles: Sequence[Profile] = ()):
        """Pictures are encoded with what the methods of `profiles` need."""
        self.engine = engine
        self.profiles = profiles
        self.pool = pool
        self._lock = Lock()
        self._room = Semaphore(BACKLOG)
        self._known: OrderedDict[str, ImageFeatures] = OrderedDict()

    def expect(self, digest: str, image: Image.Image, alone: bool) -> tuple[ImageFeatures, bool]:
        """The picture of this content, and whether it is new; a new one starts preprocessing.

        Waits while too many do. `alone` says whether it is its question's only image.
        """
        family = self.engine.family
        alone = alone or not family.single_differs
        digest = digest if alone else f"{digest} among others"
        with self._lock:
            known = self._known.get(digest)
            if known is not None:
                self._known.move_to_end(digest)
                return known, False
        self._room.acquire()
        pixels = self.pool.submit(_preprocess, family, image, alone)
        pixels.add_done_callback(lambda done: self._room.release())
        picture = ImageFeatures(pixels)
        with self._lock:
            self._known[digest] = picture
        self._forget()
        return picture, True

    def encode(self, pictures: Sequence[ImageFeatures], cut: Narrowing | None = None) -> float:
        """Give every picture its features; returns the seconds that the new ones took.

        `cut` is a profile's `encoder`.
        """
        new = list(dict.fromkeys(one for one in pictures if cut not in one.encoded))
        encoded, seconds = self.engine.encode([one.pixels for one in new], cut, self.profiles)
        for one, features in zip(new, encoded, strict=True):
            one.encoded[cut] = features
        self._forget()
        return seconds

    def _forget(self) -> None:
        with self._lock:
            sizes = {digest: one.nbytes for digest, one in self._known.items()}
            total = sum(sizes.values())
            for digest, size in sizes.items():
                if total <= REMEMBERED_BYTES:
                    return
                del self._known[digest]
                total -= size


def _preprocess(family: Any, image: Image.Image, alone: bool) -> tuple[Pixels | Problem, float]:
    """The image as the model takes it, or why it does not.

    A reason is a value: an exception would keep the image alive in its traceback.
    """
    started = perf_counter()
    found: Pixels | Problem
    try:
        found = family.pixels(image, alone)
    except Exception as error:  # processors raise anything, for sizes that they do not take
        if out_of_memory(error):
            found = Problem("out_of_memory", "The image does not fit into memory.")
        else:
            found = refusal(error, image.size)
    return found, perf_counter() - started


def refusal(error: Exception, size: tuple[int, int]) -> Problem:
    """The problem of an image that a model's processor refuses, with the processor's reason."""
    reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    width, height = size
    return Problem(
        "image_unreadable",
        f"The model's processor does not take this image of {width} x {height} pixels: {reason}",
    )
