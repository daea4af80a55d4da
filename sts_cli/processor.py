"""A checkpoint's own processor: chat template, tokenizer, image processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMED_IN = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def load_processor(folder: Path, config: Any) -> Any:
    """The processor of the checkpoint in `folder`, whose model has `config`.

    Raises what transformers raises: ImportError, OSError, ValueError, TypeError.
    """
    from transformers import AutoProcessor

    kind = processor_class(folder, config)
    if kind is not None and "video_processor" in kind.get_attributes():
        kind = without_video(kind)
    processor = (kind or AutoProcessor).from_pretrained(folder, local_files_only=True)
    for part in ("image_processor", "tokenizer"):
        if not hasattr(processor, part):
            raise ValueError(f"its processor, {type(processor).__name__}, has no {part}")
    return processor


def processor_class(folder: Path, config: Any) -> Any:
    """The class that the checkpoint names, else the one transformers pairs with its config."""
    from transformers.models.auto.processing_auto import (
        PROCESSOR_MAPPING,
        processor_class_from_name,
    )

    for name in NAMED_IN:
        path = folder / name
        if path.is_file():
            found = processor_class_from_name(
                json.loads(path.read_text("utf-8")).get("processor_class") or ""
            )
            if found is not None:
                return found
    return PROCESSOR_MAPPING.get(type(config), None)


class NoVideo:
    """Stands where a processor looks up its video settings while it formats any prompt."""

    num_frames = None
    fps = None


def without_video(kind: Any) -> Any:
    """`kind` without its video processor, which would demand torchvision for pictures alone."""
    place = kind.get_attributes().index("video_processor")

    def attributes(cls: Any) -> list[str]:
        return [name for name in kind.get_attributes() if name != "video_processor"]

    def arguments(cls: Any, *args: Any, **kwargs: Any) -> list[Any]:
        parts = kind._get_arguments_from_pretrained.__func__(cls, *args, **kwargs)
        return [*parts[:place], None, *parts[place:]]

    members = {
        "video_processor": NoVideo(),
        "get_attributes": classmethod(attributes),
        "_get_arguments_from_pretrained": classmethod(arguments),
    }
    return type(kind.__name__, (kind,), members)
