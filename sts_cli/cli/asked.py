"""The images and the question of sts ask, told apart by what the words name."""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Sequence

from sts_cli.cli.options import OptionError
from sts_cli.errors import did_you_mean
from sts_cli.inputs.folder import is_image_name
from sts_cli.inputs.picture import LARGEST_FILE
from sts_cli.inputs.rows import CAPTION

STDIN = "-"
ADDRESS = re.compile(r"(https?|ftp|s3|gs)://", re.IGNORECASE)
LONGEST = 80  # characters of a word that a message quotes


def asked_about(words: Sequence[str], more: Sequence[str]) -> tuple[list[str], str]:
    """The names of the images, and the question; `more` are the images of --image.

    The last word is the question unless it names an image. A single word without --image is an
    image, whatever it names. Raises OptionError.
    """
    images, question = list(words), CAPTION
    if images and (more or len(images) > 1) and not is_image(images[-1]):
        question = images.pop()
    if not question.strip():
        raise OptionError("the question is empty; leave it out to have the image described.")
    names = [*more, *images]
    if not names or not all(names):
        raise OptionError('an image is missing; write: sts ask IMAGE "QUESTION".')
    for name in names:
        if ADDRESS.match(name):
            raise OptionError(
                f"{name[:LONGEST]} is a web address, and sts downloads no images. Save it, and "
                "give the file."
            )
    wrong = next((word for word in images if not is_image(word)), None)
    if wrong is not None and len(names) > 1:
        if is_image(words[-1]):
            raise OptionError(
                f"'{wrong[:LONGEST]}' names no image, but '{words[-1][:LONGEST]}' does. Did you "
                "swap them? Images come first, then the question."
            )
        raise OptionError(
            f"'{wrong[:LONGEST]}' names no image. Put the question in quotes, behind the images."
        )
    if names.count(STDIN) > 1:
        raise OptionError("- stands twice, but standard input holds one image.")
    return names, question


def is_image(word: str) -> bool:
    """True for a file, and for a name that only an image would have."""
    if word == STDIN or word.startswith("data:") or ADDRESS.match(word):
        return True
    return os.path.isfile(word) or is_image_name(word) and not re.search(r"\s", word)


def meant_image(names: Sequence[str]) -> str:
    """`" Did you mean 'x'?"` for a file beside the first image that is not there, or nothing."""
    gone = next((name for name in names if not os.path.exists(name)), "")
    folder, name = os.path.split(gone)
    try:
        return did_you_mean(name, os.listdir(folder or "."))
    except (OSError, ValueError):
        return ""


def named(name: str) -> str:
    """The image as a row names it: standard input becomes a data: address. Raises OptionError."""
    if name != STDIN:
        return name
    if sys.stdin is None or sys.stdin.isatty():
        raise OptionError("- reads an image from standard input: cat IMAGE | sts ask -")
    content = sys.stdin.buffer.read(LARGEST_FILE + 1)
    if not content:
        raise OptionError("standard input is empty; it should hold an image.")
    if len(content) > LARGEST_FILE:
        raise OptionError(f"standard input has more than {LARGEST_FILE:,} bytes, the limit.")
    return f"data:;base64,{base64.b64encode(content).decode()}"
