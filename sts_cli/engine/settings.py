"""A checkpoint's generation_config in greedy decoding: each setting is applied, or refused.

One rule for every setting, also for those of a transformers that is newer than this file: it is
applied, or it is known to change no greedy answer, or it has the value that means off, or the model
is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StopStringCriteria,
)

from sts_cli.errors import ModelError

APPLIED = (
    "eos_token_id",
    "max_new_tokens",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "stop_strings",
)
HARMLESS = (
    # of sampling, which greedy decoding does not do
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff", "renormalize_logits"),
    # of beams, of which there is one
    *("early_stopping", "length_penalty", "low_memory"),
    # how generate computes, not what
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size"),
    *("compile_config", "disable_compile", "continuous_batching_config", "use_mtp"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule"),
    *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
    *("target_lookbehind", "prompt_lookup_num_tokens"),
    *("max_matching_ngram_size", "speculation_type"),
    # what generate returns beside the tokens
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate", "return_legacy_cache"),
    # ids that the processor has used already, and notes on the file itself
    *("pad_token_id", "bos_token_id", "decoder_start_token_id"),
    *("transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash"),
    *("trust_remote_code", "torch_dtype", "dtype"),
    # a limit of prompt and answer together; answers end by max_new_tokens
    "max_length",
)
NEUTRAL: dict[str, Any] = {  # values that mean off; None and what is empty always does
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
}


def check_settings(config: Any) -> None:
    """Raise ModelError for a setting of `config` that decoding here would silently ignore."""
    known = vars(GenerationConfig())
    for name, value in vars(config).items():
        if name in APPLIED or name in HARMLESS or value is None or value in ([], {}):
            continue
        if value is False and name in known:  # of what nobody knows, false may change something
            continue
        if name not in NEUTRAL or value != NEUTRAL[name]:
            raise ModelError(
                f"The model's generation_config sets {name}={value!r}, which sts does not apply. "
                "Remove it from generation_config.json to decode without it."
            )


def penalties(config: Any) -> LogitsProcessorList:
    """Logits processors for a model's generation_config, in the order `generate` uses.

    Raises ModelError for a value that transformers does not take.
    """
    found = LogitsProcessorList()
    penalty = config.repetition_penalty
    try:
        if penalty not in (None, 1.0):
            found.append(RepetitionPenaltyLogitsProcessor(penalty=penalty))
        if config.no_repeat_ngram_size:
            found.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"The model's generation_config has a value that cannot be applied: {error}. Mend "
            "generation_config.json."
        ) from error
    return found


def end_tokens(config: Any) -> frozenset[int]:
    """The ids that end an answer; there may be several."""
    ends = config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


class StopStrings:
    """The texts that end an answer, as `generate` finds them: the answer keeps them."""

    def __init__(self, tokenizer: Any, stops: str | list[str]):
        self.criteria = StopStringCriteria(tokenizer, stops)

    def end(self, prompt: list[int], answer: list[int]) -> bool:
        """True if the ids of prompt and answer end in one of the texts."""
        return bool(self.criteria(torch.tensor([[*prompt, *answer]]), None)[0])
