"""A folder of answers in shards: each appears whole, and a later run writes only those left.

`_shards.jsonl` in it has a line for each whole shard. Readers of folders, such as Spark, pass over
names that begin with an underscore.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from sts_cli.errors import OutputError
from sts_cli.outputs.disk import Appender, replacing, write_errors
from sts_cli.outputs.formats import Format
from sts_cli.outputs.jsonl import JsonLines
from sts_cli.outputs.lock import Lock
from sts_cli.outputs.packed import Rows, journal_rows
from sts_cli.outputs.parquet import rows_in
from sts_cli.outputs.parquet import write as write_table
from sts_cli.outputs.settings import difference, read_settings, run_file, write_settings
from sts_cli.records import Answer

LEDGER = "_shards.jsonl"
ROWS = "shard_rows"  # the setting that cuts the input into shards


@dataclass(frozen=True, slots=True)
class Shard:
    """A line of the ledger: a whole shard, and what the end of a run says of its rows."""

    number: int
    rows: int
    errors: int
    agreed: int
    compared: int
    bytes: int


class Shards:
    """The folder `path`, whose shards have at most `shard_rows` rows.

    Opening locks it and reads which shards are whole. `run` holds the settings that answers depend
    on; `NAME.run` beside the folder keeps them. A folder of another run, or one that sts did not
    write, is refused. `retry` drops shards that have an error. Raises OutputError.
    """

    def __init__(
        self,
        path: Path,
        form: Format,
        run: Mapping[str, Any],
        shard_rows: int,
        *,
        retry: bool = False,
    ):
        self.path, self.form = path, form
        if path.exists() and not path.is_dir():
            raise OutputError(f"--out {path} is a file; with --ray, give a folder.")
        with write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            opened.enter_context(Lock(path))
            self._settings = read_settings(path) or {}
            listed, end = self._listed()
            self._settings = self._settings if listed else {}
            other = difference(self._settings, run)
            if other is not None:
                raise self._refusal(other)
            self.shard_rows = int(self._settings.get(ROWS) or shard_rows)
            self.run = {**run, ROWS: self.shard_rows}
            again = [one for one in listed.values() if retry and one.errors]
            with write_errors(path):
                for one in again:
                    self.place(one.number).unlink()
            kept = [one for one in listed.values() if one not in again]
            self._written = {one.number for one in kept}
            self.before = self.rows = sum(one.rows for one in kept)
            self.errors = sum(one.errors for one in kept)
            self.agreed = sum(one.agreed for one in kept), sum(one.compared for one in kept)
            self._ledger = Appender(path / LEDGER, end)
            self._opened = opened.pop_all()

    @property
    def written(self) -> frozenset[int]:
        """The numbers of the whole shards."""
        return frozenset(self._written)

    def confirm(self, precision: str) -> None:
        """Raise OutputError if earlier answers are of another precision."""
        run = {**self.run, "precision": precision}
        other = difference(self._settings, run) if self.written else None
        if other is not None:
            raise self._refusal(other)
        self._settings = run
        write_settings(self.path, run)

    def write(self, number: int, answers: Sequence[Answer], records: Sequence[bytes]) -> None:
        """Write one shard: it appears with all of its rows, or not at all."""
        place = self.place(number)
        with replacing(place) as file:
            if self.form.name == Rows.name:
                write_table(file, map(json.loads, records), self.run)
            else:
                for index, record in enumerate(records):
                    file.write(self.form.before(index == 0) + record)
                file.write(self.form.closing)
        versus = [answer.comparison for answer in answers if answer.comparison is not None]
        shard = Shard(
            number,
            rows=len(answers),
            errors=sum(answer.problem is not None for answer in answers),
            agreed=sum(one.agree for one in versus),
            compared=len(versus),
            bytes=place.stat().st_size,
        )
        self._ledger.append(json.dumps(asdict(shard)).encode() + b"\n")
        self._written.add(number)
        self.rows += shard.rows

    def place(self, number: int) -> Path:
        """The file of a shard. Sorted by name, they are in the order of their rows."""
        ending = self.path.suffix or ".jsonl"
        return self.path / f"part-{number:06d}{ending}"

    def close(self, complete: bool) -> None:
        """Put everything on disk; `complete` says that every row is answered."""
        with self._opened:
            self._ledger.close()
            if complete and self._settings:
                write_settings(self.path, {**self._settings, "shards": len(self.written)})

    def _listed(self) -> tuple[dict[int, Shard], int]:
        """The whole shards, by number, and the bytes of the ledger's whole lines."""
        ledger = self.path / LEDGER
        content = ledger.read_bytes() if ledger.exists() else b""
        others = [one.name for one in self.path.iterdir() if one.name != LEDGER]
        if not self._settings and (content or others):
            raise OutputError(
                f"{self.path} holds {(others or [LEDGER])[0]}, and there is no "
                f"{run_file(self.path).name} that says what run it is of. Choose another --out."
            )
        whole = content[: content.rfind(b"\n") + 1]
        found: dict[int, Shard] = {}
        try:
            for line in whole.splitlines():
                shard = Shard(**json.loads(line))
                found[shard.number] = shard
        except (ValueError, TypeError) as error:
            raise OutputError(f"{ledger} was not written by sts. Choose another --out.") from error
        return {number: one for number, one in found.items() if self._is_whole(one)}, len(whole)

    def _is_whole(self, shard: Shard) -> bool:
        """True if the shard is there as it was written. Raises OutputError if it was changed."""
        place = self.place(shard.number)
        if not place.exists():
            return False
        if place.stat().st_size != shard.bytes:
            raise OutputError(
                f"{place} has changed since it was written. To have its rows answered again, "
                "move it away."
            )
        return True

    def _refusal(self, other: str) -> OutputError:
        return OutputError(f"{self.path} holds {other}. Choose another --out folder.")


def in_shards(
    folder: Path, form: JsonLines
) -> tuple[dict[str, Any] | None, Iterator[dict[str, Any]]]:
    """The settings and the rows of a folder of shards."""
    tables = form.name == Rows.name
    paths = sorted(folder.glob("part-*"))
    each = (rows_in(path) if tables else journal_rows(path, form) for path in paths)
    return read_settings(folder), chain.from_iterable(each)
