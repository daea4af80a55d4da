"""What a checkpoint's generation_config asks of greedy decoding: applied, or refused loudly."""

from __future__ import annotations

from typing import Any

from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from sts_cli.errors import ModelError

# Settings that change greedy answers, with the value that means "off".
REFUSED: dict[str, Any] = {
    "num_beams": 1,
    "encoder_repetition_penalty": 1.0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "min_length": 0,
    "min_new_tokens": None,
}


def penalties(config: Any) -> LogitsProcessorList:
    """Logits processors for a model's `generation_config`, in the order `generate` uses.

    Raises ModelError for a setting that greedy decoding here would silently ignore.
    """
    for name, neutral in REFUSED.items():
        value = getattr(config, name, None)
        if value not in (None, neutral):
            raise ModelError(
                f"The model's generation_config sets {name}={value!r}, which sts does not apply. "
                f"Remove it from generation_config.json to decode without it."
            )
    found = LogitsProcessorList()
    penalty = getattr(config, "repetition_penalty", None)
    if penalty not in (None, 1.0):
        found.append(RepetitionPenaltyLogitsProcessor(penalty=penalty))
    size = getattr(config, "no_repeat_ngram_size", None)
    if size:
        found.append(NoRepeatNGramLogitsProcessor(size))
    return found
