"""Proof, before the first answer, that a family without tests runs here as in transformers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sts_cli.decoding import Decoder, NotWatchable, Watch
from sts_cli.decoding.masks import layer_kinds
from sts_cli.decoding.tokens import Tokens, text_tokens
from sts_cli.errors import ModelError
from sts_cli.families.default import Family, Prompt
from sts_cli.machine.hardware import out_of_memory

QUESTION = "what is in the image?"
EXACT, ROUNDED = 1e-3, 0.1  # how far logits may differ, of their norm: in float32, in fewer bits
FOREIGN = (  # what a model raises that does not follow the conventions
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def prove(family: Family, decoder: Decoder[Any]) -> None:
    """Raise ModelError unless one question runs here as the model's own `generate` runs it.

    A position, mask or scale that the family treats in its own way would change every answer,
    silently. Takes about six prefills.
    """
    kind = family.model.config.model_type
    kind = f"'{kind}' around '{family.model.get_decoder().config.model_type}', an untested family,"
    try:
        flaw = find_flaw(family, decoder)
    except FOREIGN as error:
        if out_of_memory(error):
            raise ModelError(f"{kind} needs more memory than there is to be checked.") from error
        first = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"{kind} does not follow the conventions that sts relies on: "
            f"{type(error).__name__}: {first[:200]}"
        ) from error
    if flaw is not None:
        raise ModelError(f"{kind} cannot be run by sts: {flaw}.")


@torch.inference_mode()
def find_flaw(family: Family, decoder: Decoder[Any]) -> str | None:
    """The first difference between sts and the model itself, as the rest of a sentence."""
    image = Image.linear_gradient("L").convert("RGB")  # 256 x 256
    model = family.model
    ids, first, second, chosen = by_generate(family, image)
    pixels = [family.pixels(image)]
    prompt = Prompt(family.tokenize(QUESTION, pixels), tuple(family.encode(pixels)))
    if prompt.ids != ids:
        return "its processor writes another prompt than its tokens and template"
    tokens = family.embed([prompt])
    every = range(decoder.layers)
    limit = EXACT if model.dtype == torch.float32 else ROUNDED

    cache, hidden = decoder.cache(1, 1), tokens
    words = prompt.words(family.image_token_id)
    watch = Watch(torch.ones((1, words), dtype=torch.bool, device=model.device))
    for layer in every:
        try:
            hidden, _ = decoder.run(hidden, range(layer, layer + 1), cache, watch)
        except NotWatchable:
            return f"layer {layer} of its language model does not attend as sts observes it"
    if distance(decoder.logits(hidden.hidden), first) > limit:
        return "its first token differs from that of transformers' generate"

    positions = (tokens.positions.amax((0, 2)) + 1).expand(len(tokens.positions), -1)
    step = text_tokens(family.embedding(chosen), positions)
    after, _ = decoder.run(step, every, cache)
    if distance(decoder.logits(after.hidden), second) > limit:
        return "its second token differs from that of transformers' generate"
    if decoder.joins and distance(joining(decoder, tokens, step), second) > limit:
        return "a question that joins others is answered otherwise than alone"

    # A sliding window counts the tokens that are left, so there the two differ in any family.
    if "sliding_attention" not in layer_kinds(model.get_decoder().config):
        sized = replace(tokens, log_size=tokens.visual * math.log(3))  # as proportional attention
        if max(pruned_from_masked(decoder, one) for one in (tokens, sized)) > limit:
            return "dropping tokens differs from hiding them"
    return None


def by_generate(family: Family, image: Image.Image) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """By `generate`: the prompt's ids, two new tokens' logits [1, V], the first one's id [1, 1]."""
    asked = family.prompt_text(QUESTION, 1)
    made = family.processor(
        images=[[image]],
        text=[asked],
        return_tensors="pt",
        add_special_tokens=family.needs_special_tokens(asked),
    ).to(family.model.device)
    inputs = {
        name: value.to(family.model.dtype) if value.is_floating_point() else value
        for name, value in made.items()
    }
    done = family.model.generate(
        **inputs,
        max_new_tokens=2,
        min_new_tokens=2,  # past an early end
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return inputs["input_ids"][0].tolist(), *done.logits, done.sequences[:, -2:-1]


def pruned_from_masked(decoder: Decoder[Any], tokens: Tokens) -> float:
    """The distance between dropping every other visual token and letting nobody attend to it."""
    every = range(decoder.layers)
    keep = tokens.mask & ~(tokens.visual & (tokens.visual.cumsum(1) % 2 == 0))
    fewer = tokens.keep(keep, [int(keep.sum())])
    dropped, _ = decoder.run(fewer, every, decoder.cache(1, 0))
    hidden = replace(tokens, mask=keep, padded=True)
    masked, _ = decoder.run(hidden, every, decoder.cache(1, 0))
    return distance(decoder.logits(dropped.hidden), decoder.logits(masked.hidden))


def joining(decoder: Decoder[Any], tokens: Tokens, step: Tokens) -> Tensor:
    """The logits [1, V] of `step` after `tokens`, as a row that joins a shorter one."""
    every, room = range(decoder.layers), tokens.hidden.shape[1] + 1
    text = tokens.mask & ~tokens.visual
    shorter = tokens.keep(text, [int(text.sum())])
    cache, other = decoder.cache(1, room), decoder.cache(1, room)
    decoder.run(shorter, every, cache)
    decoder.run(tokens, every, other)
    cache.join(other)
    positions = step.positions[..., 0].expand(-1, 2)
    after, _ = decoder.run(text_tokens(step.hidden.expand(2, -1, -1), positions), every, cache)
    return decoder.logits(after.hidden)[1:]


def distance(given: Tensor, wanted: Tensor) -> float:
    """The norm of the difference of two tensors, as a share of the second's norm."""
    wanted = wanted.float()
    return float((given.float() - wanted).norm() / wanted.norm())
