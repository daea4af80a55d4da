"""One adapter per way to build a prompt, found by the model's `model_type`.

To add a family that the default fits, do nothing. Else add one file here and one line in the table.
No torch at import: commands that load no model read the table.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sts_cli.errors import ModelError

if TYPE_CHECKING:
    import torch

    from sts_cli.families.default import Family

# model_type -> (module, class, model_types of its language models); test_parity.py tests them all
FAMILIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "llava": ("default", "Family", ("llama", "mistral", "qwen2")),
    "llava_next": ("llava_next", "LlavaNext", ("mistral", "llama", "qwen2")),
    "llava_onevision": ("llava_next", "LlavaOnevision", ("qwen2",)),
    "qwen2_vl": ("qwen", "Qwen", ("qwen2_vl_text",)),
    "qwen2_5_vl": ("qwen", "Qwen", ("qwen2_5_vl_text",)),
    "qwen3_vl": ("qwen", "Qwen", ("qwen3_vl_text",)),
    "smolvlm": ("default", "Family", ("llama",)),
    "idefics3": ("default", "Family", ("llama",)),
    "internvl": ("default", "Family", ("qwen2", "qwen3", "llama")),
    "gemma3": ("default", "Family", ("gemma3_text",)),
    "mllama": ("mllama", "Mllama", ("mllama_text_model",)),
}
CROSS_ATTENDED = ("mllama",)  # families whose visual tokens only cross-attention layers read


UNTESTED_TOWERS = ("pixtral",)  # vision encoders of listed families that no test has


# encoders whose attention can be observed, as the tests do in every family
OBSERVED_TOWERS = (
    *("clip_vision_model", "siglip_vision_model", "internvl_vision", "idefics3_vision"),
    *("smolvlm_vision", "qwen2_vl_vision", "qwen2_5_vl_vision", "qwen3_vl_vision"),
)


def observed(kind: str, vision: str | None) -> bool:
    """True if the attention in the encoder `vision` of the family `kind` can be observed."""
    return kind in FAMILIES and vision in OBSERVED_TOWERS


def tested(kind: str, text: str | None, vision: str | None) -> bool:
    """True if the tests cover the family `kind` with these model_types of its two parts.

    `text` is the language model's, `vision` the encoder's; None is the family's default.
    """
    listed = kind in FAMILIES and (text is None or text in FAMILIES[kind][2])
    return listed and vision not in UNTESTED_TOWERS


def adapter(model: Any, processor: Any, encoder: Any = None) -> Family:
    """The adapter for `model`, or for its `skeleton`. Raises ModelError for unsupported models.

    `encoder` computes `get_image_features` in the model's place.
    """
    from sts_cli.families.encoder import encoder_of

    refuse(model)
    module, name, _ = FAMILIES.get(model.config.model_type, FAMILIES["llava"])
    kind: type[Family] = getattr(import_module(f"sts_cli.families.{module}"), name)
    return kind(model, processor, encoder_of(model) if encoder is None else encoder)


def skeleton(config: Any, dtype: torch.dtype | None = None) -> Any:
    """The model of `config` without memory for its weights, in `dtype` or the config's own.

    Takes less than a second.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    given = {} if dtype is None else {"dtype": dtype}
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, **given, trust_remote_code=False)


def refuse(model: Any) -> None:
    """Raise ModelError for a model that cannot be pruned correctly.

    Only the structure is checked, so a `skeleton` is enough.
    """
    from sts_cli.decoding.masks import KINDS, layer_kinds

    kind, config = model.config.model_type, model.config
    supported = f"Supported: {', '.join(FAMILIES)}."
    decoder = model.get_decoder()
    crossing = bool(getattr(decoder.config, "cross_attention_layers", None))
    if crossing != (kind in CROSS_ATTENDED):
        raise ModelError(
            f"'{kind}' reads its images through cross-attention, which sts can only prune in "
            f"{', '.join(CROSS_ATTENDED)}. {supported}"
            if crossing
            else f"'{kind}' has no cross-attention layers, so nothing in it reads an image."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"'{kind}' has a text encoder and a decoder; sts only runs decoders that read the "
            f"image and the question together. {supported}"
        )
    encodes = crossing or hasattr(model, "get_image_features")
    if getattr(config, "image_token_id", None) is None or not encodes:
        raise ModelError(
            f"'{kind}' has no placeholder token for images, so its prompt has no visual tokens to "
            f"prune. {supported}"
        )
    encode = getattr(model, "get_image_features", None)
    if encode is not None and "qformer_input_ids" in inspect.signature(encode).parameters:
        raise ModelError(
            f"'{kind}' reads the question while it encodes the image (Q-Former), so questions "
            f"cannot share an image's tokens. {supported}"
        )
    # Up to 5.18, transformers' SDPA ignored soft-capping without a warning.
    if not decoder._supports_sdpa or getattr(decoder.config, "attn_logit_softcapping", None):
        raise ModelError(
            f"The language model of '{kind}' ({decoder.config.model_type}) needs a kind of "
            "attention that PyTorch's scaled_dot_product_attention lacks; sts cannot run it."
        )
    other = sorted(set(layer_kinds(decoder.config)) - set(KINDS))
    if other:
        raise ModelError(
            f"The language model of '{kind}' has layers of the kind {', '.join(other)}, which sts "
            f"cannot prune. {supported}"
        )
    missing = [name for name in ("layers", "norm", "rotary_emb") if not hasattr(decoder, name)]
    if missing:
        raise ModelError(
            f"The language model of '{kind}' has no {', '.join(missing)}; sts only runs models "
            f"that follow transformers' conventions. {supported}"
        )
