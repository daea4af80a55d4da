"""One adapter per way of building a prompt, found by the model's own `model_type`.

To add a family: nothing, if the default fits; else one file here and one line in the table.
No torch at import: the table is read by commands that load no model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sts_cli.errors import ModelError

if TYPE_CHECKING:
    from sts_cli.families.default import Family

# model_type -> (module, class); every family here is covered by tests/test_parity.py
FAMILIES: dict[str, tuple[str, str]] = {
    "llava": ("default", "Family"),
    "llava_next": ("llava_next", "LlavaNext"),
    "llava_onevision": ("llava_next", "LlavaOnevision"),
    "qwen2_vl": ("qwen", "Qwen"),
    "qwen2_5_vl": ("qwen", "Qwen"),
    "qwen3_vl": ("qwen", "Qwen"),
    "smolvlm": ("default", "Family"),
    "idefics3": ("default", "Family"),
    "internvl": ("default", "Family"),
    "gemma3": ("gemma3", "Gemma3"),
}


def family_of(model: Any, processor: Any) -> Family:
    """The adapter for a loaded model. Raises ModelError where pruning would be wrong."""
    kind = model.config.model_type
    refuse(model)
    module, name = FAMILIES.get(kind, FAMILIES["llava"])
    family: Family = getattr(import_module(f"sts_cli.families.{module}"), name)(model, processor)
    return family


def refuse(model: Any) -> None:
    """Raise ModelError for a model whose tokens cannot be dropped without changing its meaning."""
    kind = model.config.model_type
    if getattr(model.config, "image_token_id", None) is None:
        raise ModelError(
            f"'{kind}' has no placeholder token for images (it may use cross-attention), so its "
            f"visual tokens cannot be pruned. Supported: {', '.join(FAMILIES)}."
        )
    decoder = model.get_decoder()
    missing = [name for name in ("layers", "norm", "rotary_emb") if not hasattr(decoder, name)]
    if missing:
        raise ModelError(
            f"The language model of '{kind}' has no {', '.join(missing)}; sts runs models that "
            f"follow transformers' conventions. Supported: {', '.join(FAMILIES)}."
        )
    kinds = set(getattr(decoder.config, "layer_types", None) or ())
    other = sorted(kinds - {"full_attention", "sliding_attention"})
    if other:
        raise ModelError(
            f"'{kind}' has layers of the kind {', '.join(other)}, where a token that was dropped "
            "has already left its trace; sts cannot prune it correctly."
        )
