"""Output files, read again and rewritten: without errors, or in the order of the input."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sts_cli.errors import OutputError
from sts_cli.outputs.disk import replacing
from sts_cli.outputs.formats import Format, StoredRecord


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of an output file."""

    keys: array[int]
    failed: int  # records that have an error
    end: int  # bytes up to the end of the last whole record
    models: frozenset[str]
    agreed: tuple[int, int]  # records that agree with the unpruned answer, and all compared ones


def scan(path: Path, form: Format) -> Contents:
    """The whole records of a file. Raises OutputError for a file that sts did not write."""
    keys, failed, end, agreed, compared = array("Q"), 0, 0, 0, 0
    models: set[str] = set()
    for record in read(path, form):
        keys.append(record.key)
        failed += record.failed
        end = record.end
        agreed += record.agree is True
        compared += record.agree is not None
        if record.model is not None:
            models.add(record.model)
    return Contents(keys, failed, end, frozenset(models), (agreed, compared))


def read(path: Path, form: Format) -> Iterator[StoredRecord]:
    """The records of a file, without a half-written one at its end."""
    torn: bytes | None = None
    number = 0
    try:
        with path.open("rb") as file:
            for number, record in enumerate(form.read(file), 1):
                if torn is not None:
                    raise ValueError(f"record {number - 1} was not written by sts")
                if isinstance(record, StoredRecord):
                    yield record
                else:
                    torn = record
        if torn is not None and not form.begins(torn):
            raise ValueError(f"record {number} was not written by sts")
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise OutputError(
            f"Cannot continue {path}: {error}. Choose another --out, or move that file away."
        ) from error


def drop_errors(path: Path, form: Format) -> None:
    """Remove the records that have an error from a file."""
    records = read(path, form)
    rewrite(path, form, ((record.start, record.end) for record in records if not record.failed))


def reorder(path: Path, form: Format, wanted: Iterable[int]) -> None:
    """Put the records of a file in the order of these keys; other records go to the end."""
    keys, starts, ends = array("Q"), array("Q"), array("Q")
    for record in read(path, form):
        keys.append(record.key)
        starts.append(record.start)
        ends.append(record.end)
    ranks = array("Q", sorted(range(len(keys)), key=keys.__getitem__))
    taken = bytearray(len(keys))
    order = array("Q")
    for key in wanted:
        place = bisect_left(ranks, key, key=keys.__getitem__)
        while place < len(ranks) and keys[ranks[place]] == key:
            if not taken[ranks[place]]:
                taken[ranks[place]] = 1
                order.append(ranks[place])
                break
            place += 1
    order.extend(index for index in range(len(keys)) if not taken[index])
    if any(index != place for place, index in enumerate(order)):
        rewrite(path, form, ((starts[index], ends[index]) for index in order))


def rewrite(path: Path, form: Format, places: Iterable[tuple[int, int]]) -> None:
    """Replace a file, at once, by some of its records."""
    with replacing(path) as new, path.open("rb") as old:
        empty = True
        for start, end in places:
            old.seek(start)
            new.write(form.before(empty) + old.read(end - start))
            empty = False
        if not empty:
            new.write(form.closing)
