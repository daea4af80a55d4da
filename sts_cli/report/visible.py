"""Foreign text that is safe to show: characters that would steer a terminal become visible."""

from __future__ import annotations

import re

STEERING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls except tab and new line: ESC, BEL, CR, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the direction of writing
    "\u200b\u2060-\u2064\u180e\ufeff"  # no width at all
    "\u2028\u2029"  # line breaks that editors do not count
    "\ud800-\udfff"  # bytes of a file name that are not text
    "]"
    "|(?<=[\x00-\x7f])[\u200c\u200d]"  # joiners after ASCII, where no script needs them
)


def visible(text: str) -> str:
    r"""`text` with these characters written as `\x1b` or `\u202e`; new lines and tabs stay."""
    return STEERING.sub(_escape, text)


def in_line(text: str) -> str:
    r"""Visible text on one line: new lines and tabs are written as `\n` and `\t`."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def visible_json(text: str) -> str:
    """JSON of the same meaning, with these characters written as JSON escapes."""
    return STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
