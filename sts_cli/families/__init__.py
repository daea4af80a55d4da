"""One adapter per way of building a prompt, found by the model's own `model_type`.

To add a family: nothing, if the default fits; else one file here and one line in the table.
No torch at import: the table is read by commands that load no model.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sts_cli.errors import ModelError

if TYPE_CHECKING:
    from sts_cli.families.default import Family

# model_type -> (module, class, model_types of its language models); tests/test_parity.py covers all
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
}


UNTESTED_TOWERS = ("pixtral",)  # vision encoders that a listed family may have, but not our tests


def tested(kind: str, text: str | None, vision: str | None) -> bool:
    """Whether the tests cover `kind` around a language model `text` and an encoder `vision`.

    None is the kind's default.
    """
    listed = kind in FAMILIES and (text is None or text in FAMILIES[kind][2])
    return listed and vision not in UNTESTED_TOWERS


def adapter(model: Any, processor: Any, encoder: Any = None) -> Family:
    """How `model`, or a `skeleton` of it, puts images into prompts. Raises ModelError.

    `encoder` computes `get_image_features` in the model's place.
    """
    from sts_cli.families.encoder import encoder_of

    refuse(model)
    module, name, _ = FAMILIES.get(model.config.model_type, FAMILIES["llava"])
    kind: type[Family] = getattr(import_module(f"sts_cli.families.{module}"), name)
    return kind(model, processor, encoder_of(model) if encoder is None else encoder)


def skeleton(config: Any) -> Any:
    """The model of `config` without memory for its weights; takes a fraction of a second."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def refuse(model: Any) -> None:
    """Raise ModelError for a model whose tokens cannot be dropped without changing its meaning.

    Looks at the structure alone; a `skeleton` will do.
    """
    from sts_cli.decoding.masks import KINDS, layer_kinds

    kind, config = model.config.model_type, model.config
    supported = f"Supported: {', '.join(FAMILIES)}."
    decoder = model.get_decoder()
    if getattr(decoder.config, "cross_attention_layers", None):
        raise ModelError(
            f"'{kind}' looks at its images through cross-attention, so there are no visual tokens "
            f"in its prompt to prune. {supported}"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"'{kind}' has a text encoder apart from its decoder; sts runs decoders that read the "
            f"image and the question together. {supported}"
        )
    if getattr(config, "image_token_id", None) is None or not hasattr(model, "get_image_features"):
        raise ModelError(
            f"'{kind}' has no placeholder token for images, so there are no visual tokens in its "
            f"prompt to prune. {supported}"
        )
    if "qformer_input_ids" in inspect.signature(model.get_image_features).parameters:
        raise ModelError(
            f"'{kind}' reads the question while it encodes the image (Q-Former), so an image's "
            f"tokens cannot be chosen or shared before the question. {supported}"
        )
    # Up to 5.18, transformers' SDPA left soft-capping out and said nothing.
    if not decoder._supports_sdpa or getattr(decoder.config, "attn_logit_softcapping", None):
        raise ModelError(
            f"The language model of '{kind}' ({decoder.config.model_type}) attends in a way that "
            "PyTorch's scaled_dot_product_attention does not compute, so sts cannot run it."
        )
    other = sorted(set(layer_kinds(decoder.config)) - set(KINDS))
    if other:
        raise ModelError(
            f"The language model of '{kind}' has layers of the kind {', '.join(other)}, which sts "
            f"cannot prune correctly. {supported}"
        )
    missing = [name for name in ("layers", "norm", "rotary_emb") if not hasattr(decoder, name)]
    if missing:
        raise ModelError(
            f"The language model of '{kind}' has no {', '.join(missing)}; sts runs models that "
            f"follow transformers' conventions. {supported}"
        )
