"""Answers as a Parquet table: one flat column a figure, as in a table of commas, but with types.

pyarrow reads and writes it (the extra `parquet`). The settings that answers depend on are in the
file's own metadata, which also marks it as ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from sts_cli.errors import OutputError
from sts_cli.outputs.csv import CERTAINTY, SECONDS, TOKENS
from sts_cli.outputs.formats import check_library
from sts_cli.records import printable

GROUP = 10_000  # rows that are in memory at once, and stand together in the file
SETTINGS = b"sts.run"  # key of the file's metadata
MAGIC = b"PAR1"  # how every Parquet file begins
MEASURED = {"certainty": CERTAINTY, "tokens": TOKENS, "seconds": SECONDS}
ORDER = {"tokens": ("visual", "left", "structure", "semantics", "average", "text", "generated")}
TEXTS = ("question", "answer")


def schema() -> Any:
    """The columns of every table of answers, with or without --compare (`pyarrow.Schema`)."""
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    kinds = {"tokens_left": pa.list_(whole), "tokens_average": real}
    figures = [
        (name, kinds.get(name) or (whole if name.startswith("tokens_") else real))
        for group, names in MEASURED.items()
        for name in (f"{group}_{name}" for name in names)
    ]
    return pa.schema(
        [
            *((name, text) for name in ("id", "image")),
            ("images", pa.list_(text)),
            *((name, text) for name in (*TEXTS, "error", "message", "model", "profile")),
            ("escalated", text),
            *figures,
            ("rows", whole),
            ("finish", text),
            ("expected", pa.list_(text)),
            ("extra", text),
            ("agree", pa.bool_()),
            *((name, real) for name in ("similarity", "speedup_prefill", "speedup_total")),
            ("full_answer", text),
            *((f"full_{name}", kind) for name, kind in figures),
        ]
    )


def table(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Output rows, as `answer_row` makes them, as a `pyarrow.Table` of `schema()`."""
    import pyarrow as pa

    return pa.Table.from_pylist([flat(row) for row in rows], schema=schema())


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """An output row without nesting; `extra` is JSON, as its keys are the user's."""
    error, full, speedup = (row.get(name) or {} for name in ("error", "full", "speedup"))
    same = ("id", "image", "model", "profile", "escalated", "rows", "finish", *TEXTS)
    return {
        **{name: row[name] for name in same},
        **{name: row.get(name) for name in ("images", "expected", "agree", "similarity")},
        "error": error.get("kind"),
        "message": error.get("message"),
        **figures_of(row, ""),
        "extra": json.dumps(row["extra"], ensure_ascii=False) if row["extra"] else None,
        **{f"speedup_{name}": speedup.get(name) for name in ("prefill", "total")},
        "full_answer": full.get("answer"),
        **figures_of(full, "full_"),
    }


def figures_of(row: Mapping[str, Any], before: str) -> dict[str, Any]:
    """The measurements of an answer as columns whose names begin with `before`."""
    return {
        f"{before}{group}_{name}": (row.get(group) or {}).get(name)
        for group, names in MEASURED.items()
        for name in names
    }


def nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """The output row that `flat` made flat, with its keys in the order of `answer_row`."""
    failed, compared = row["error"] is not None, row["agree"] is not None
    return {
        "id": row["id"],
        "image": row["image"],
        **({"images": row["images"]} if row["images"] else {}),
        "question": row["question"],
        **measured_in(row, ""),
        **{name: row[name] for name in ("model", "profile", "escalated", "rows", "finish")},
        "error": {"kind": row["error"], "message": row["message"]} if failed else None,
        "extra": json.loads(row["extra"]) if row["extra"] else {},
        **({} if row["expected"] is None else {"expected": row["expected"]}),
        **(compared_in(row) if compared else {}),
    }


def measured_in(row: Mapping[str, Any], before: str) -> dict[str, Any]:
    """Answer, certainty, tokens and seconds, from columns whose names begin with `before`."""
    found: dict[str, Any] = {"answer": row[f"{before}answer"]}
    for group, names in MEASURED.items():
        figures = {name: row[f"{before}{group}_{name}"] for name in names}
        known = any(figure is not None for figure in figures.values())
        found[group] = {name: figures[name] for name in ORDER.get(group, names)} if known else None
    return found


def compared_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an output row about the unpruned answer."""
    return {
        "full": measured_in(row, "full_"),
        "agree": row["agree"],
        "similarity": row["similarity"],
        "speedup": {name: row[f"speedup_{name}"] for name in ("prefill", "total")},
    }


def write(file: BinaryIO, rows: Iterable[Mapping[str, Any]], run: Mapping[str, Any]) -> int:
    """A whole table of answers, with the settings of their run; the number of rows."""
    from pyarrow import parquet

    rows, count = iter(rows), 0
    told = schema().with_metadata({SETTINGS: json.dumps(dict(run)).encode()})
    with parquet.ParquetWriter(file, told, compression="zstd") as writer:
        while part := list(islice(rows, GROUP)):
            writer.write_table(table(part).replace_schema_metadata(told.metadata))
            count += len(part)
    return count


def is_parquet(path: Path) -> bool:
    """True for a file that begins as Parquet files do. Raises OutputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (FileNotFoundError, IsADirectoryError):
        return False
    except OSError as error:
        raise OutputError(f"Cannot read {path}: {error.strerror}.") from error


def run_of(path: Path) -> dict[str, Any] | None:
    """The settings in a table of answers; None for any other file."""
    if not is_parquet(path):
        return None
    check_library(path)
    import pyarrow
    from pyarrow import parquet

    try:
        told = (parquet.read_schema(path).metadata or {}).get(SETTINGS)
        run = json.loads(told) if told else None
    except (pyarrow.ArrowException, OSError, ValueError):
        return None
    return run if isinstance(run, dict) else None


def rows_in(path: Path) -> Iterator[dict[str, Any]]:
    """The output rows in a table of answers, a few in memory at once. Raises OutputError."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=GROUP // 10):
                yield from map(nested, batch.to_pylist())
    except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
        reason = printable(str(error).partition("\n")[0][:150])
        raise OutputError(f"Cannot read {path}: it is damaged ({reason}).") from error
