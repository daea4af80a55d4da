"""JSON lines: our own rows, LLaVA's answers, and OpenAI's batch responses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from sts_cli.outputs.formats import StoredRecord
from sts_cli.outputs.keys import images_of, key, key_of
from sts_cli.records import Answer, Item, answer_row


class JsonLines:
    """The rows of docs/formats.md, with everything that was measured."""

    name = "jsonl"
    closing = b""
    by_id = False
    start = b'{"id": "'

    def before(self, first: bool) -> bytes:
        return b""

    def record(self, answer: Answer) -> bytes:
        row = self.row(answer)
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def row(self, answer: Answer) -> dict[str, Any]:
        return answer_row(answer)

    def row_of(self, record: bytes) -> dict[str, Any]:
        row = json.loads(record)
        return {**self.source(row), "answer": self.text(row)}

    def text(self, row: Mapping[str, Any]) -> str | None:
        """The answer in a row; None for an error."""
        answer: str | None = row["answer"]
        return answer

    def key(self, item: Item) -> int:
        return key_of(item)

    def begins(self, torn: bytes) -> bool:
        return starts_alike(torn, self.start)

    def source(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of a row with our id, image, question, model, profile and error."""
        return row

    def read(self, file: BinaryIO) -> Iterator[StoredRecord | bytes]:
        start = 0
        for line in file:
            end = start + len(line)
            yield (self._record(line, start, end) if line.endswith(b"\n") else None) or line
            start = end

    def _record(self, line: bytes, start: int, end: int) -> StoredRecord | None:
        try:
            row = self.source(json.loads(line))
            row_key = key(row["id"], images_of(row), row["question"])
            return StoredRecord(
                start, end, row_key, row["error"] is not None, row.get("model"), row.get("agree")
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


class Llava(JsonLines):
    """LLaVA's answer files (model_vqa.py); our other fields are in `metadata`."""

    name = "llava"
    start = b'{"question_id": '

    def row(self, answer: Answer) -> dict[str, Any]:
        ours = answer_row(answer)
        return {
            "question_id": number(answer.item.id),
            "prompt": ours["question"],
            "text": ours["answer"] or "",
            "answer_id": f"{self.key(answer.item):016x}",
            "model_id": ours["model"],
            "metadata": {name: ours[name] for name in ours if name != "answer"},
        }

    def text(self, row: Mapping[str, Any]) -> str | None:
        answer: str = row["text"]
        return None if self.source(row)["error"] else answer

    def source(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        inside: Mapping[str, Any] = row["metadata"]
        return inside


class OpenAI(JsonLines):
    """Responses of OpenAI's batch format; our other fields are in `sts`."""

    name = "openai-batch"
    start = b'{"id": "batch_req_'

    def row(self, answer: Answer) -> dict[str, Any]:
        ours = answer_row(answer)
        identity, error = f"{self.key(answer.item):016x}", ours["error"]
        return {
            "id": f"batch_req_{identity}",
            "custom_id": answer.item.id,
            "response": None
            if error
            else {
                "status_code": 200,
                "request_id": identity,
                "body": completion(answer, identity),
            },
            "error": error and {"code": error["kind"], "message": error["message"]},
            "sts": {name: ours[name] for name in ours if name != "answer"},
        }

    def text(self, row: Mapping[str, Any]) -> str | None:
        if row["response"] is None:
            return None
        answer: str = row["response"]["body"]["choices"][0]["message"]["content"]
        return answer

    def source(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        inside: Mapping[str, Any] = row["sts"]
        return inside


def starts_alike(torn: bytes, start: bytes) -> bool:
    """True if a half-written record may begin with `start`; a power cut can leave zeros."""
    return torn.startswith((start, b"\0")) or start.startswith(torn)


def completion(answer: Answer, identity: str) -> dict[str, Any]:
    """A chat completion with the answer as its only choice."""
    tokens = answer.tokens
    prompt, generated = (tokens.visual + tokens.text, tokens.generated) if tokens else (0, 0)
    return {
        "id": f"chatcmpl-{identity}",
        "object": "chat.completion",
        "model": answer.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": answer.finish,
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        },
    }


def number(identity: str) -> int | str:
    """An id as a number, if it was written as one."""
    whole = identity.isascii() and identity.isdigit() and len(identity) < 16
    return int(identity) if whole and str(int(identity)) == identity else identity
