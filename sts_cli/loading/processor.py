"""Loads a checkpoint's processor: chat template, tokenizer, image processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sts_cli.checkpoints.weights import read_json
from sts_cli.errors import ModelError

SETTINGS = "processor_config.json"
NAMED_IN = (SETTINGS, "preprocessor_config.json", "tokenizer_config.json")
DEFAULTED = ("num_additional_image_tokens", "vision_aspect_ratio")  # have defaults in transformers
CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # number per encoder


def load_processor(folder: Path, config: Any) -> Any:
    """The processor of the checkpoint in `folder`; `config` is the model's.

    Raises ModelError, or an error of transformers: ImportError, OSError, ValueError, TypeError.
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
        if code and "trust_remote_code" in str(error):  # an option that sts does not have
            raise ModelError(needs_code(folder, code)) from error
        raise
    for part in ("image_processor", "tokenizer"):
        if not hasattr(processor, part):
            if code:
                raise ModelError(needs_code(folder, code))
            raise ValueError(f"its processor, {type(processor).__name__}, has no {part}")
    fill_settings(processor, folder, config)
    check_template(processor, folder)
    return processor


def fill_settings(processor: Any, folder: Path, config: Any) -> None:
    """Fill a processor's missing settings from the model's config; old checkpoints lack some.

    Raises ModelError if the number of tokens per image stays unknown.
    """
    written = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    for name, value in settings_from(config).items():
        defaulted = name in DEFAULTED and name not in written and hasattr(processor, name)
        if value is not None and (defaulted or getattr(processor, name, 0) is None):
            setattr(processor, name, value)
    for name in ("patch_size", "num_image_tokens"):
        if getattr(processor, name, 1) is None:
            raise ModelError(
                f"{folder} does not say how many tokens an image has: {name} is missing in its "
                f'processor and in config.json. Add "{name}" to {SETTINGS}.'
            )
    if getattr(processor, "chat_template", None) is None:
        processor.chat_template = processor.tokenizer.chat_template


def settings_from(config: Any) -> dict[str, Any]:
    """Settings of a processor that follow from a model's config; None for unknown ones."""
    vision = getattr(config, "vision_config", None)
    patch: Any = getattr(vision, "patch_size", None)
    side: Any = getattr(vision, "image_size", None)
    known = isinstance(patch, int) and isinstance(side, int) and patch > 0
    return {
        "patch_size": patch,
        "num_image_tokens": (side // patch) ** 2 if known else None,
        # "default" is right for the families whose configs have no such entry
        "vision_feature_select_strategy": getattr(
            config, "vision_feature_select_strategy", "default"
        ),
        "num_additional_image_tokens": CLASS_TOKENS.get(getattr(vision, "model_type", "")),
        "vision_aspect_ratio": getattr(config, "vision_aspect_ratio", None),
    }


def check_template(processor: Any, folder: Path) -> None:
    """Raise ModelError unless the chat template writes one placeholder for an image."""
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    try:
        rendered = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template may raise anything
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"The chat template of {folder} fails ({words}). Copy chat_template.jinja from the "
            "original model."
        ) from error
    image = getattr(processor, "image_token", None)
    if image is not None and rendered.count(image) != 1:
        raise ModelError(
            f"The chat template of {folder} writes {rendered.count(image)} placeholders for one "
            "image. Copy chat_template.jinja from the original model."
        )


def processor_class(folder: Path, config: Any) -> Any:
    """The class that the checkpoint names, else transformers' class for its config, or None.

    Raises ModelError if only code in the checkpoint has that class.
    """
    from transformers.models.auto.processing_auto import (
        PROCESSOR_MAPPING,
        processor_class_from_name,
    )

    native = PROCESSOR_MAPPING.get(type(config), None)
    for name in NAMED_IN:
        path = folder / name
        settings = read_json(path) if path.is_file() else {}
        named = settings.get("processor_class")
        known = processor_class_from_name(named or "")
        if known is not None:
            return known
        if "AutoProcessor" in (settings.get("auto_map") or ()) and (named or native is None):
            raise ModelError(needs_code(folder, name))
    return native


def needs_code(folder: Path, file: str) -> str:
    """The message about a checkpoint whose `file` names a class from its own Python code."""
    return (
        f"{folder} needs Python code of its own (auto_map in {file}), which sts never runs. "
        "Use a checkpoint that only needs classes of transformers."
    )


def files_with_code(folder: Path) -> list[str]:
    """Names of the settings files in `folder` that refer to the checkpoint's own Python code."""
    files = ("config.json", *NAMED_IN)
    return [
        name for name in files if (folder / name).is_file() and has_code(read_json(folder / name))
    ]


def has_code(settings: Mapping[str, Any]) -> bool:
    """True if settings, or those of a part such as the image processor, refer to Python code."""
    parts = [settings, *(part for part in settings.values() if isinstance(part, Mapping))]
    return any(part.get("auto_map") for part in parts)


class NoVideo:
    """Placeholder for a video processor: a processor reads these settings for every prompt."""

    num_frames = None
    fps = None


def without_video(kind: Any) -> Any:
    """A subclass of `kind` without its video processor, which needs torchvision even for images."""
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
