"""The model libraries while they load: their messages kept quiet, their errors in our words."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch
from huggingface_hub.errors import StrictDataclassError

from sts_cli.errors import ModelError
from sts_cli.machine.hardware import out_of_memory
from sts_cli.machine.packages import to_install

FOREIGN = (  # what transformers, torch and the system raise when a checkpoint is odd
    AttributeError,
    ImportError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Only errors of the model libraries reach stderr, and no bars; as it was afterwards."""
    from transformers.utils import logging as talk

    other = logging.getLogger("bitsandbytes")
    level, other_level, bars = talk.get_verbosity(), other.level, talk.is_progress_bar_enabled()
    talk.set_verbosity(logging.ERROR)
    other.setLevel(logging.ERROR)
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(level)
        other.setLevel(other_level)
        if bars:
            talk.enable_progress_bar()


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn errors while loading `name` into a ModelError with a remedy."""
    try:
        yield
    except FOREIGN as error:
        raise ModelError(explain(name, error)) from error


def explain(name: str, error: Exception) -> str:
    """One sentence for an error of transformers, torch or the system."""
    text = " ".join(str(error).split())
    for package in ("num2words", "torchvision", "sentencepiece", "bitsandbytes", "accelerate"):
        if isinstance(error, ImportError) and package in text.lower():
            return f"'{name}' needs {package}; run: {to_install(package)}"
    if isinstance(error, torch.OutOfMemoryError):
        return f"Not enough GPU memory for '{name}'; try --quantize int8 or --quantize nf4."
    if out_of_memory(error):
        return f"Not enough memory for '{name}'; try --quantize int8 or --quantize int4."
    if "the above report" in text:  # of transformers' log, which nobody sees
        return (
            f"Cannot load '{name}': its weights do not have the shapes that its config.json asks "
            "for; the config or the weights belong to another model."
        )
    return f"Cannot load '{name}': {text[:300]}"
