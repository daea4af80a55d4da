"""A model that answers rows or blocks of rows, as an actor of Ray Data holds it.

Nothing here imports Ray. `import sts_cli` offers Answerer, and imports this when it is asked for.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sts_cli.answering.request import Request
from sts_cli.checkpoints.sources import find
from sts_cli.cluster.blocks import Block
from sts_cli.errors import StsError
from sts_cli.inputs.rows import Origin, item_of
from sts_cli.machine.libraries import check_libraries
from sts_cli.machine.runtime import settle_cpu
from sts_cli.openvino.ready import wished_backend
from sts_cli.outputs.csv import cells
from sts_cli.outputs.formats import format_named
from sts_cli.profile import Profile, Quantize
from sts_cli.profile_files import load_profile
from sts_cli.records import Answer, Item, answer_row

if TYPE_CHECKING:
    from sts_cli.library import Model


@dataclass(frozen=True, slots=True)
class Setup:
    """The model that every actor holds, and the request that it answers."""

    place: str  # where a node finds the model: demo, a whole path, or a hub id
    name: str  # as the user wrote it, and as rows show it
    request: Request
    device: str
    dtype: str
    form: str  # of the records

    def load(self) -> Model:
        """The model. Raises ModelError or ProfileError."""
        settle_cpu()
        check_libraries()
        from sts_cli.library import load_model

        return load_model(
            replace(find(self.place), name=self.name),
            self.request.profile,
            device=self.device,
            dtype=self.dtype,
            others=self.request.others,
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to a block, and their records; or the sentence that says why there are none."""

    number: int
    precision: str = ""
    decoder: str = ""  # what runs the language model's layers
    answers: tuple[Answer, ...] = ()  # without their images, which may be large
    records: tuple[bytes, ...] = ()
    refusal: str | None = None


class BlockAnswerer:
    """Answers one block after the other, by the model that it loads once."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.form = format_named(setup.form)
        self.vlm: Model | None = None
        self.refusal: str | None = None
        try:
            self.vlm = setup.load()
        except StsError as error:
            self.refusal = str(error)

    def answered(self, block: Block) -> Answered:
        if self.vlm is None:
            return Answered(block.number, refusal=self.refusal)
        answers = tuple(answers_to(self.vlm, block.items, self.setup.request))
        return Answered(
            block.number,
            self.vlm.precision,
            type(self.vlm.engine.decoder).__name__,
            tuple(light(answer) for answer in answers),
            tuple(self.form.record(answer) for answer in answers),
        )

    def __call__(self, batch: Any) -> Any:
        """A table of one row with a block to one with its answers (`pyarrow.Table`)."""
        (packed,) = batch.column("block").to_pylist()
        return packed_as("answered", self.answered(pickle.loads(packed)))


class Answerer:
    """Rows with answers, for `dataset.map_batches(sts_cli.Answerer, ...)` of Ray Data.

    Made once in each actor, with the arguments of `sts_cli.load`; `question` is for rows without
    one, `images` the folder that names of images are relative to. Raises errors.StsError.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        profile: str | Path | Profile = "balanced",
        question: str | None = None,
        images: str | Path = ".",
        compare: bool = False,
        max_new_tokens: int | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        backend: str | None = None,
    ):
        plan = profile if isinstance(profile, Profile) else load_profile(str(profile))
        plan = replace(
            plan,
            quantize=cast(Quantize, quantize) or plan.quantize,
            backend=wished_backend(backend, plan),
        )
        self.request = Request(
            (plan,), compare, batch_size=batch_size, max_new_tokens=max_new_tokens
        )
        self.origin = Origin("batch", Path(images), question, remote=True)
        place = find(None if model is None else str(model)).name
        self.vlm = Setup(place, place, self.request, device, dtype, "jsonl").load()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Columns of rows, as docs/formats.md spells them, to columns of as many answers.

        The columns are those of a table of answers: text, figures, and JSON for lists.
        """
        columns = {name: plain(values) for name, values in batch.items()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        items = [item_of(row, number, self.origin) for number, row in enumerate(rows, 1)]
        found = [cells(answer_row(one)) for one in answers_to(self.vlm, items, self.request)]
        return {name: [row[name] for row in found] for name in found[0]} if found else {}


def answers_to(vlm: Model, items: Iterable[Item], request: Request) -> Iterator[Answer]:
    """One answer for each item, as `sts batch` gives it on one machine."""
    from sts_cli.inputs.images import decode_ahead

    return vlm.answers(decode_ahead(items), request)


def light(answer: Answer) -> Answer:
    """The answer without images and extra values: what a report of the run needs."""
    item = replace(answer.item, images=(), extra={})
    versus = answer.comparison
    full = None if versus is None else replace(versus, full=replace(versus.full, item=item))
    return replace(answer, item=item, comparison=full)


def packed_as(column: str, value: object) -> Any:
    """A table of one row with any value, as bytes (`pyarrow.Table`)."""
    import pyarrow

    return pyarrow.table({column: pyarrow.array([pickle.dumps(value)], pyarrow.large_binary())})


def plain(values: Any) -> list[Any]:
    """A column as Python's own values, however Ray hands it over."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    return [one.tolist() if hasattr(one, "tolist") else one for one in listed]
