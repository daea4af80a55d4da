"""A checkpoint's own processor: chat template, tokenizer, image processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sts_cli.checkpoints.weights import read_json
from sts_cli.errors import ModelError

SETTINGS = "processor_config.json"
NAMED_IN = (SETTINGS, "preprocessor_config.json", "tokenizer_config.json")
ASSUMED = ("num_additional_image_tokens", "vision_aspect_ratio")  # if the file is silent
CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # of an encoder, beside patches


def load_processor(folder: Path, config: Any) -> Any:
    """The processor of the checkpoint in `folder`, whose model has `config`.

    Raises ModelError, or what transformers raises: ImportError, OSError, ValueError, TypeError.
    """
    from transformers import AutoProcessor

    kind = processor_class(folder, config)
    if kind is not None and "video_processor" in kind.get_attributes():
        kind = without_video(kind)
    code = ", ".join(files_with_code(folder))
    try:
        processor = (kind or AutoProcessor).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except ValueError as error:
        if code and "trust_remote_code" in str(error):  # which is for others to set
            raise ModelError(needs_code(folder, code)) from error
        raise
    for part in ("image_processor", "tokenizer"):
        if not hasattr(processor, part):
            if code:
                raise ModelError(needs_code(folder, code))
            raise ValueError(f"its processor, {type(processor).__name__}, has no {part}")
    complete(processor, folder, config)
    check_template(processor, folder)
    return processor


def complete(processor: Any, folder: Path, config: Any) -> None:
    """Give a processor what old layouts leave out, as the model's config has it.

    Raises ModelError where the config does not tell how many tokens an image takes.
    """
    written = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    for name, value in told_by(config).items():
        assumed = name in ASSUMED and name not in written and hasattr(processor, name)
        if value is not None and (assumed or getattr(processor, name, 0) is None):
            setattr(processor, name, value)
    for name in ("patch_size", "num_image_tokens"):
        if getattr(processor, name, 1) is None:
            raise ModelError(
                f"{folder} does not say how many tokens an image takes: its processor has no "
                f'{name}, nor has config.json; add "{name}" to {SETTINGS}.'
            )
    if getattr(processor, "chat_template", None) is None:
        processor.chat_template = processor.tokenizer.chat_template


def told_by(config: Any) -> dict[str, Any]:
    """What a config knows of a processor's settings; None for what it does not."""
    vision = getattr(config, "vision_config", None)
    patch: Any = getattr(vision, "patch_size", None)
    side: Any = getattr(vision, "image_size", None)
    whole = isinstance(patch, int) and isinstance(side, int) and patch > 0
    return {
        "patch_size": patch,
        "num_image_tokens": (side // patch) ** 2 if whole else None,
        # what the families do that leave it out of their configs
        "vision_feature_select_strategy": getattr(
            config, "vision_feature_select_strategy", "default"
        ),
        "num_additional_image_tokens": CLASS_TOKENS.get(getattr(vision, "model_type", "")),
        "vision_aspect_ratio": getattr(config, "vision_aspect_ratio", None),
    }


def check_template(processor: Any, folder: Path) -> None:
    """Raise ModelError for a chat template that cannot show a model an image."""
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    try:
        rendered = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template may raise anything
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"The chat template of {folder} fails ({words}); copy chat_template.jinja from the "
            "model it was made from."
        ) from error
    image = getattr(processor, "image_token", None)
    if image is not None and rendered.count(image) != 1:
        raise ModelError(
            f"The chat template of {folder} writes {rendered.count(image)} placeholders for one "
            "image; copy chat_template.jinja from the model it was made from."
        )


def processor_class(folder: Path, config: Any) -> Any:
    """The class that the checkpoint names, else the one transformers pairs with its config."""
    from transformers.models.auto.processing_auto import (
        PROCESSOR_MAPPING,
        processor_class_from_name,
    )

    native = PROCESSOR_MAPPING.get(type(config), None)
    for name in NAMED_IN:
        path = folder / name
        settings = read_json(path) if path.is_file() else {}
        named = settings.get("processor_class")
        found = processor_class_from_name(named or "")
        if found is not None:
            return found
        if "AutoProcessor" in (settings.get("auto_map") or ()) and (named or native is None):
            raise ModelError(needs_code(folder, name))
    return native


def needs_code(folder: Path, file: str) -> str:
    """The sentence for a checkpoint whose `file` names a class that only its own code has."""
    return (
        f"{folder} needs Python code of its own (auto_map in {file}), which sts never runs; "
        "use a checkpoint whose classes are all in transformers."
    )


def files_with_code(folder: Path) -> list[str]:
    """The names of the small files in `folder` that point to Python code beside them."""
    files = ("config.json", *NAMED_IN)
    return [
        name for name in files if (folder / name).is_file() and has_code(read_json(folder / name))
    ]


def has_code(settings: Mapping[str, Any]) -> bool:
    """Whether settings, or those of a part such as the image processor, point to code."""
    parts = [settings, *(part for part in settings.values() if isinstance(part, Mapping))]
    return any(part.get("auto_map") for part in parts)


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
