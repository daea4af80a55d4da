"""What each precision does to a model's next-token distribution: python -m benchmarks.quality

Compares with the same model in float32, on random pictures and words, at every position after the
image. Without --model it writes a random LLaVA of half a billion parameters to a temporary
folder: errors of arithmetic, without the outliers that training leaves in weights. Prints one
JSON line: the relative error of the logits (root mean square), the mean KL divergence in nats,
and how often the most likely token is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from sts_cli.runtime import settle_cpu

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
    wish = parser.parse_args()
    settle_cpu()
    os.environ["STS_CACHE"] = ""  # keep nothing
    with tempfile.TemporaryDirectory() as folder:
        if wish.model is None:
            from benchmarks import loading

            loading.write(Path(folder), layers=24, width=1024)
        figures = compare(wish.model or folder, wish.prompts, wish.words)
    name = Path(wish.model).name if wish.model else "random"
    print(json.dumps({"benchmark": "quality", "model": name, **figures}))


def compare(model: str, prompts: int, words: int) -> dict[str, Any]:
    """The figures of every precision for one model."""
    from sts_cli.loading import load
    from sts_cli.sources import find

    source = find(model)
    assert source.checkpoint is not None
    exact = load(source, device="cpu", dtype="float32")
    inputs = random_prompts(exact, prompts, words)
    wanted = logits(exact, inputs, words)
    del exact
    figures = {}
    for name, (dtype, quantize) in PRECISIONS.items():
        loaded = load(source, device="cpu", dtype=dtype, quantize=quantize)  # type: ignore[arg-type]
        figures[name] = distance(wanted, logits(loaded, inputs, words))
        del loaded
    return {"parameters": source.checkpoint.weights.parameters, "precisions": figures}


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
