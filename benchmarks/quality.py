"""What each precision does to a model's logits and answers: python -m benchmarks.quality

Compares with the same model in float32. Logits: on random pictures and words, at every position
after the image. Answers: to the questions of `sts eval scenes`, under the profile `off`; only for a
--model, as random weights have nothing to say. Without --model it writes a random LLaVA of half a
billion parameters to a temporary folder: errors of arithmetic, without the outliers that training
leaves in weights. Prints one JSON line on stdout and the same as a table on stderr:
`logit_error` is the relative error of the logits (root mean square), `kl` the mean divergence in
nats, `same_token` how often the most likely token is the same, `same_answer` how often the whole
answer is (`low` to `high` is its 95% interval), `exact` how often the answer is right.
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
PRECISIONS = {  # name -> (dtype, quantize)
    "bfloat16": ("bfloat16", "none"),
    "int8, float32": ("float32", "int8"),
    "int8": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int4"),
    "nf4": ("bfloat16", "nf4"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder, or the word demo")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--words", type=int, default=24, help="tokens after the image")
    parser.add_argument("--per-kind", type=int, default=20, help="questions of each of ten kinds")
    wish = parser.parse_args()
    settle_cpu()
    os.environ["STS_CACHE"] = ""  # keep nothing
    with tempfile.TemporaryDirectory() as folder:
        if wish.model is None:
            from benchmarks import loading

            loading.write(Path(folder), layers=24, width=1024)
        per_kind = wish.per_kind if wish.model else 0
        figures = compare(wish.model or folder, wish.prompts, wish.words, per_kind)
    print(table(figures["precisions"]), file=sys.stderr)
    name = Path(wish.model).name if wish.model else "random"
    print(json.dumps({"benchmark": "quality", "model": name, **figures}))


def compare(model: str, prompts: int, words: int, per_kind: int) -> dict[str, Any]:
    """The figures of every precision for one model."""
    from sts_cli.checkpoints.sources import find
    from sts_cli.loading.model import load

    source = find(model)
    assert source.checkpoint is not None
    exact = load(source, device="cpu", dtype="float32")
    inputs = random_prompts(exact, prompts, words)
    wanted, answers = logits(exact, inputs, words), answers_of(exact, per_kind)
    del exact
    figures = {EXACT: agreement(answers, answers)}
    for name, (dtype, quantize) in PRECISIONS.items():
        loaded = load(source, device="cpu", dtype=dtype, quantize=quantize)  # type: ignore[arg-type]
        figures[name] = distance(wanted, logits(loaded, inputs, words)) | agreement(
            answers, answers_of(loaded, per_kind)
        )
        del loaded
    return {"parameters": source.checkpoint.weights.parameters, "precisions": figures}


def answers_of(loaded: Any, per_kind: int) -> list[Any]:
    """The model's answers to the built-in questions, without pruning, in their order."""
    from sts_cli.answering.request import OFF, Request
    from sts_cli.answering.scheduler import answer_all
    from sts_cli.engine.engine import Engine
    from sts_cli.scenes.suite import suite

    questions = suite(per_kind, level=0.0)
    return list(answer_all(Engine(loaded), questions, Request((OFF,)))) if per_kind else []


def agreement(wanted: list[Any], given: list[Any]) -> dict[str, float]:
    """How many answers are the same, and how many are right; nothing if none were asked."""
    from sts_cli.answering.agreement import exact_match, same
    from sts_cli.evaluation.table import wilson

    if not wanted:
        return {}
    agreed = [same(a.text, b.text) for a, b in zip(wanted, given, strict=True)]
    right = [exact_match(one.text, one.item.answers) for one in given]
    low, high = wilson(sum(agreed), len(agreed))
    return {
        "questions": len(agreed),
        "same_answer": round(sum(agreed) / len(agreed), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "exact": round(sum(right) / len(right), 4),
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures in Markdown, as in docs/quantization.md."""
    columns = list(dict.fromkeys(key for one in figures.values() for key in one))
    lines = [["", *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name, *(str(one.get(key, "")) for key in columns)] for name, one in figures.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def random_prompts(loaded: Any, prompts: int, words: int) -> dict[str, Any]:
    """Pictures of noise, each followed by random tokens of the vocabulary."""
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
    """[prompts, words, V] in float32: what follows each of the words."""
    import torch

    pixels = inputs["pixel_values"].to(loaded.dtype)
    with torch.inference_mode():
        output = loaded.model(input_ids=inputs["input_ids"], pixel_values=pixels)
    return output.logits[:, -words:].float()


def distance(wanted: Any, given: Any) -> dict[str, float]:
    p, q = wanted.log_softmax(-1), given.log_softmax(-1)
    return {
        "logit_error": round(((given - wanted).norm() / wanted.norm()).item(), 5),
        "kl": round((p.exp() * (p - q)).sum(-1).mean().item(), 6),
        "same_token": round((wanted.argmax(-1) == given.argmax(-1)).float().mean().item(), 4),
    }


if __name__ == "__main__":
    main()
