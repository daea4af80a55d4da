"""Errors of logits and answers in each precision: python -m benchmarks.quality

Compares each precision with the same model in float32. Logits: for random pictures and words, at
every position after the image. Answers: to the questions of `sts eval scenes`, under the profile
`off`, and only with --model, since answers from random weights mean nothing. Without --model, it
writes a random LLaVA of half a billion parameters to a temporary folder; such weights have no
outliers, which training causes. Prints one JSON line on stdout and a table on stderr:
`logit_error` is the relative error of the logits (root mean square), `kl` the mean divergence in
nats, `same_token` the share of equal most likely tokens, `same_answer` that of equal answers (`low`
to `high` is its 95% interval), `exact` that of right answers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from sts_cli.machine.runtime import settle_cpu

EXACT = "float32"
PRECISIONS = {  # name -> (backend, dtype, quantize)
    "bfloat16": ("torch", "bfloat16", "none"),
    "int8, float32": ("torch", "float32", "int8"),
    "int8": ("torch", "bfloat16", "int8"),
    "int4": ("torch", "bfloat16", "int4"),
    "nf4": ("torch", "bfloat16", "nf4"),
    "OpenVINO float32": ("openvino", "float32", "none"),
    "OpenVINO bfloat16": ("openvino", "bfloat16", "none"),
    "OpenVINO int8, float32": ("openvino", "float32", "int8"),
    "OpenVINO int8, bfloat16": ("openvino", "bfloat16", "int8"),
    "OpenVINO int4, float32": ("openvino", "float32", "int4"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder, or the word demo")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--words", type=int, default=24, help="tokens after the image")
    parser.add_argument("--per-kind", type=int, default=20, help="questions of each of ten kinds")
    options = parser.parse_args()
    settle_cpu()
    os.environ["STS_CACHE"] = ""  # no cache
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            from benchmarks import loading

            loading.write(Path(folder), layers=24, width=1024)
        per_kind = options.per_kind if options.model else 0
        figures = compare(options.model or folder, options.prompts, options.words, per_kind)
    print(table(figures["precisions"]), file=sys.stderr)
    name = Path(options.model).name if options.model else "random"
    print(json.dumps({"benchmark": "quality", "model": name, **figures}))


def compare(model: str, prompts: int, words: int, per_kind: int) -> dict[str, Any]:
    """The figures of every precision for one model."""
    from sts_cli.checkpoints.sources import find
    from sts_cli.loading.model import load

    source = find(model)
    assert source.checkpoint is not None
    exact = load(source, device="cpu", dtype="float32")
    inputs = random_prompts(exact, prompts, words)
    expected, answers = logits(exact, inputs, words), answers_of(exact, per_kind)
    del exact
    figures = {EXACT: agreement(answers, answers)}
    backend: Any
    quantize: Any
    for name, (backend, dtype, quantize) in PRECISIONS.items():
        loaded = load(source, device="cpu", dtype=dtype, quantize=quantize, backend=backend)
        figures[name] = agreement(answers, answers_of(loaded, per_kind))
        if loaded.decoder is None:  # else the model has no layers of its own
            figures[name] |= distance(expected, logits(loaded, inputs, words))
        del loaded
    return {"parameters": source.checkpoint.weights.parameters, "precisions": figures}


def answers_of(loaded: Any, per_kind: int) -> list[Any]:
    """The model's answers to the built-in questions in order, without pruning."""
    from sts_cli.answering.request import OFF, Request
    from sts_cli.answering.scheduler import answer_all
    from sts_cli.engine.engine import Engine
    from sts_cli.scenes.suite import suite

    questions = suite(per_kind, level=0.0)
    engine = Engine(loaded, loaded.decoder, loaded.encoder)
    return list(answer_all(engine, questions, Request((OFF,)))) if per_kind else []


def agreement(expected: list[Any], given: list[Any]) -> dict[str, float]:
    """The shares of equal answers and of right answers; empty without questions."""
    from sts_cli.answering.agreement import exact_match, same
    from sts_cli.report.intervals import wilson

    if not expected:
        return {}
    agreed = [same(a.text, b.text) for a, b in zip(expected, given, strict=True)]
    right = [exact_match(answer.text, answer.item.answers) for answer in given]
    low, high = wilson(sum(agreed), len(agreed))
    return {
        "questions": len(agreed),
        "same_answer": round(sum(agreed) / len(agreed), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "exact": round(sum(right) / len(right), 4),
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """The Markdown table of docs/quantization.md."""
    columns = list(dict.fromkeys(key for row in figures.values() for key in row))
    lines = [["", *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name, *(str(row.get(key, "")) for key in columns)] for name, row in figures.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def random_prompts(loaded: Any, prompts: int, words: int) -> dict[str, Any]:
    """Inputs of random pictures, each followed by random tokens of the vocabulary."""
    import torch

    torch.manual_seed(0)
    config = loaded.model.config
    side, channels = config.vision_config.image_size, 3
    pixels = torch.randn(prompts, channels, side, side)
    with torch.inference_mode():
        features = loaded.model.get_image_features(pixel_values=pixels.to(loaded.dtype))
    count = features.pooler_output[0].shape[0]
    image = torch.full((prompts, count), config.image_token_id)
    text = torch.randint(5, config.text_config.vocab_size, (prompts, words))
    start = torch.full((prompts, 1), config.text_config.bos_token_id or 1)
    return {"input_ids": torch.cat([start, image, text], 1), "pixel_values": pixels}


def logits(loaded: Any, inputs: dict[str, Any], words: int) -> Any:
    """Logits [prompts, words, V] in float32 at each of the words."""
    import torch

    pixels = inputs["pixel_values"].to(loaded.dtype)
    with torch.inference_mode():
        output = loaded.model(input_ids=inputs["input_ids"], pixel_values=pixels)
    return output.logits[:, -words:].float()


def distance(expected: Any, given: Any) -> dict[str, float]:
    """The differences between two tensors of logits."""
    p, q = expected.log_softmax(-1), given.log_softmax(-1)
    return {
        "logit_error": round(((given - expected).norm() / expected.norm()).item(), 5),
        "kl": round((p.exp() * (p - q)).sum(-1).mean().item(), 6),
        "same_token": round((expected.argmax(-1) == given.argmax(-1)).float().mean().item(), 4),
    }


if __name__ == "__main__":
    main()
