"""The library's face: a model that answers. Imports torch; `sts_cli.load` imports this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sts_cli.answering.request import Request
from sts_cli.answering.scheduler import answer_all, answer_each
from sts_cli.checkpoints.sources import Source
from sts_cli.engine.engine import Engine
from sts_cli.engine.needs import lacking, needs_of, particular
from sts_cli.errors import ProfileError
from sts_cli.inputs.images import Prepared, decode_ahead
from sts_cli.inputs.rows import CAPTION
from sts_cli.loading.foreign import explained, quiet
from sts_cli.loading.guide import guide_source
from sts_cli.loading.model import load as load_weights
from sts_cli.loading.model import read_config
from sts_cli.profile import Backend, Profile
from sts_cli.profile_files import load_profile
from sts_cli.records import Answer, Item
from sts_cli.report.notes import Notes

Question = Item | tuple[Any, str]  # an item, or an image and what to ask about it


class Model:
    """A loaded vision-language model, and the profile that it answers under unless told otherwise.

    Make one with `sts_cli.load`. It is not safe to call from several threads at once.
    """

    def __init__(self, engine: Engine, profile: Profile, precision: str):
        self.engine = engine
        self.profile = profile
        self.precision = precision  # such as "bfloat16, none": of activations, of weights

    @property
    def name(self) -> str:
        """The model as it was named."""
        return self.engine.name

    def ask(
        self,
        image: Any,
        question: str = CAPTION,
        *,
        profile: str | Path | Profile | None = None,
        compare: bool = False,
        max_new_tokens: int | None = None,
        places: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """The answer to one question about an image, or about a list of images.

        An image is a path, the bytes of a file, a PIL image, or a numpy array of uint8, H x W or
        H x W x 3 or 4. `compare` answers without pruning, too, and tells how the two compare;
        `places` tells which tokens were kept; `on_text` hears the text while it is generated, or at
        once where the profile escalates.
        What goes wrong is the answer's `problem`. Raises ProfileError.
        """
        images = tuple(image) if isinstance(image, list | tuple) else (image,)
        item = Item(id="1", images=images, question=question)
        request = Request(
            (self.chosen(profile),), compare, max_new_tokens=max_new_tokens, places=places
        )
        (answer,) = self.answers(decode_ahead([item], workers=1), request, on_text=on_text)
        return answer

    def batch(
        self,
        items: Iterable[Question],
        *,
        profile: str | Path | Profile | None = None,
        compare: bool = False,
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
        places: bool = False,
    ) -> Iterator[Answer]:
        """One answer for each item, in their order, as soon as those before it are known.

        An item is an `Item`, or an image (as `ask` takes it) and a question. Items are read a few
        ahead, so any number of them needs no more memory. Raises ProfileError.
        """
        request = Request(
            (self.chosen(profile),),
            compare,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            places=places,
        )
        return self.answers(decode_ahead(as_items(items)), request)

    def answers(
        self,
        prepared: Iterable[Prepared],
        request: Request,
        *,
        on_text: Callable[[str], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Answer]:
        """Answers to decoded items, with notes; see `answering.scheduler.answer_all`."""
        notes = Notes(request.profile)
        found = answer_all(self.engine, prepared, request, on_text=on_text, stop=stop)
        return map(notes.noted, found)

    def answers_each(
        self, prepared: Iterable[Prepared], request: Request
    ) -> Iterator[tuple[Answer, ...]]:
        """Answers to decoded items under each of the request's profiles."""
        return answer_each(self.engine, prepared, request)

    def chosen(self, profile: str | Path | Profile | None) -> Profile:
        """The profile that is meant; the model's own without one."""
        if profile is None:
            return self.profile
        return profile if isinstance(profile, Profile) else load_profile(str(profile))


def load_model(
    source: Source,
    profile: Profile,
    *,
    device: str = "auto",
    dtype: str = "auto",
    others: tuple[Profile, ...] = (),
    progress: Callable[[str], None] | None = None,
) -> Model:
    """The model of `source` in the precision and by the backend of `profile`, ready
    for `others`, too.

    Raises ModelError, or ProfileError for a profile that the model cannot honour.
    """
    profiles = (profile, *others)
    guide = guide_source(source, profiles)
    if source.checkpoint is not None and particular(profiles):  # before its weights are read
        with quiet(), explained(source.name):
            config = read_config(source.checkpoint.folder)
        for rung in (rung for wanted in profiles for rung in wanted.ladder):
            lacking(rung, source.name, config, checkpoint=source.checkpoint)
    backend = backend_for(profiles, profile.backend or "auto")
    small = None
    if guide is not None:
        small = Engine(load_weights(guide, device=device, dtype=dtype, progress=progress))
    loaded = load_weights(
        source,
        device=device,
        dtype=dtype,
        quantize=profile.quantize or "none",
        backend=backend,
        progress=progress,
    )
    engine = Engine(loaded, loaded.decoder, loaded.encoder, small)
    for wanted in profiles:
        engine.check(wanted)
        engine.prepare(wanted)
    return Model(engine, profile, loaded.precision)


def backend_for(profiles: Sequence[Profile], wish: Backend) -> Backend:
    """The backend that runs all `profiles`; raises ProfileError for a wish that none can keep."""
    if "products" not in needs_of(profiles) or wish == "torch":
        return wish
    if wish == "openvino":
        raise ProfileError(
            f"Profile '{profiles[0].name}' has a method that needs queries and keys of the "
            "language model, which OpenVINO does not give. Use --backend torch."
        )
    return "torch"


def as_items(items: Iterable[Question]) -> Iterator[Item]:
    """Items as they are; pairs of image and question as items numbered from 1."""
    for number, item in enumerate(items, 1):
        if isinstance(item, Item):
            yield item
        else:
            image, question = item
            images = tuple(image) if isinstance(image, list | tuple) else (image,)
            yield Item(id=str(number), images=images, question=question)
