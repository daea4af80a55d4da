"""Generated ids to text, while they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class TextStream:
    """Hands a sink the new part of the text after each token, never half a character."""

    def __init__(self, tokenizer: Any, sink: Callable[[str], None]):
        self.tokenizer = tokenizer
        self.sink = sink
        self.sent = 0  # characters of the text so far

    def show(self, ids: Sequence[int], last: bool = False) -> None:
        """`ids` are all tokens generated so far; `last` says that no more will come."""
        text = decode(self.tokenizer, ids, last)
        if text.endswith("\ufffd") and not last:
            return
        if len(text) > self.sent:
            self.sink(text[self.sent :])
            self.sent = len(text)


def decode(tokenizer: Any, ids: Sequence[int], last: bool = True) -> str:
    """The text of an answer: no special tokens, no space around it."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text.strip() if last else text.lstrip()
