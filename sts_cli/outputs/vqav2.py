"""VQAv2's result file: one JSON list of question_id and answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from sts_cli.outputs.formats import StoredRecord
from sts_cli.outputs.jsonl import number, starts_alike
from sts_cli.outputs.keys import key
from sts_cli.records import Answer, Item


class Results:
    """One element per line, so that an unfinished list can be continued.

    Failed rows have the answer "" and the key `error`, which scorers ignore: a model may also
    answer "". Records identify their row by its id alone, so ids must not repeat.
    """

    name = "vqav2"
    closing = b"\n]\n"
    by_id = True

    def before(self, first: bool) -> bytes:
        return b"[\n" if first else b",\n"

    def record(self, answer: Answer) -> bytes:
        row = {"question_id": number(answer.item.id), "answer": answer.text or ""}
        if answer.problem is not None:
            row["error"] = answer.problem.kind
        return json.dumps(row, ensure_ascii=False).encode()

    def row_of(self, record: bytes) -> dict[str, Any]:
        row = json.loads(record)
        error = {"kind": row["error"], "message": ""} if "error" in row else None
        answer = row["answer"] if error is None else None
        return {"id": row["question_id"], "answer": answer, "error": error}

    def key(self, item: Item) -> int:
        return key(item.id, None, None)

    def begins(self, torn: bytes) -> bool:
        return starts_alike(torn, b'{"question_id": ')

    def read(self, file: BinaryIO) -> Iterator[StoredRecord | bytes]:
        start = 0
        for line in file:
            content = line.rstrip(b",\n")
            if content not in (b"", b"[", b"]"):
                yield self._record(content, start, start + len(content)) or content
            start += len(line)

    def _record(self, content: bytes, start: int, end: int) -> StoredRecord | None:
        try:
            row = json.loads(content)
            row_key = key(row["question_id"], None, None)
            return StoredRecord(start, end, row_key, "error" in row)
        except (ValueError, KeyError, TypeError):
            return None
