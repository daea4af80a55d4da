"""What the methods of a profile need, and whether a model has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sts_cli import pruning
from sts_cli.checkpoints.checkpoint import Checkpoint
from sts_cli.checkpoints.fingerprint import weights_digest
from sts_cli.decoding import Compares, Decoder
from sts_cli.decoding.masks import readers
from sts_cli.errors import ProfileError
from sts_cli.families import observed
from sts_cli.profile import Cut, Energy, Profile
from sts_cli.pruning import Need


def needs_of(profiles: Iterable[Profile]) -> set[Need]:
    """All that the methods of `profiles`, and of what they escalate to, need beside the tokens."""
    return {
        need
        for profile in profiles
        for rung in profile.ladder
        for cut in rung.cuts
        for need in pruning.find(cut.method).needs
    }


def particular(profiles: Iterable[Profile]) -> bool:
    """True if a method of `profiles` does not work with every model."""
    methods = [
        pruning.find(cut.method) for one in profiles for rung in one.ladder for cut in rung.cuts
    ]
    some = {"products", *pruning.OF_ENCODER}
    return any(some & {*one.needs} or hasattr(one, "unfit") for one in methods)


def lacking(
    profile: Profile,
    name: str,
    config: Any,
    decoder: Decoder[Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Raise ProfileError if the model `name` of `config` has not what a method of `profile` needs.

    Without a `decoder` the config is asked, and the files of the `checkpoint`: nothing is loaded.
    """
    for cut in profile.cuts:
        reason = reason_against(cut, profile, config, decoder) or another(cut, checkpoint)
        if reason is not None:
            raise ProfileError(f"Profile '{profile.name}', method {cut.method}: {reason}.")


def reason_against(
    cut: Cut, profile: Profile, config: Any, decoder: Decoder[Any] | None
) -> str | None:
    """The reason why a cut's method does not work with a model, or None."""
    method = pruning.build(cut.method, cut.options)
    if isinstance(cut.keep, Energy) and (cut.depth or not pruning.follows(cut.method)):
        return "keep of energy is for a cut before the first layer that can follow the image"
    text = config.get_text_config()
    vision = getattr(getattr(config, "vision_config", None), "model_type", None)
    watched = [pruning.IN_WORDS[need] for need in method.needs if need in pruning.OF_ENCODER]
    if watched and profile.encoder is not None:
        return f"it needs {watched[0]}, where 'encoder' drops patches. Leave one of the two out"
    if watched and not observed(config.model_type, vision):
        return (
            f"it needs {watched[0]}, which sts cannot observe in '{config.model_type}' with the "
            f"encoder '{vision}'. 'sts profiles methods' lists methods that need nothing of it"
        )
    if "products" in method.needs and readers(text) != tuple(range(text.num_hidden_layers)):
        return (
            f"it needs queries and keys of the next layer, but in '{config.model_type}' layers of "
            "text stand before the next one that reads the image. Use a method that needs attention"
        )
    if "products" in method.needs and decoder is not None:
        if not isinstance(decoder, Compares):
            return (
                "it needs queries and keys of the language model, which OpenVINO does not give. "
                "Add 'backend: torch' to the profile"
            )
        if not decoder.comparable:
            return (
                f"it needs queries and keys, which the layers of '{text.model_type}' do not "
                "compute apart. Use a method that needs attention"
            )
    unfit = getattr(method, "unfit", None)
    return None if unfit is None else unfit(text)


def another(cut: Cut, checkpoint: Checkpoint | None) -> str | None:
    """The reason why what a cut's method learned is not of these weights, or None."""
    method = pruning.build(cut.method, cut.options)
    if checkpoint is None or not hasattr(method, "trained_for"):
        return None
    file, model, weights = method.trained_for()
    if weights == weights_digest(checkpoint):
        return None
    return (
        f"the scorer {file} was trained for other weights (of '{model}'). Give the scorer of this "
        "model, or use another method"
    )
