"""One engine that answers questions about images, for benchmarks/peers.py: its own process.

    python peer_servers.py ENGINE FOLDER VARIANT

Loads the model, writes one line of JSON about itself, then answers each line of JSON on stdin
(`image`, a path; `new`, the number of tokens to generate; `profile`) by one on stdout (`prompt` and
`new`, numbers of tokens, where the engine tells them). Each engine runs in its own environment, so
nothing outside the standard library is imported before the engine is known.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

QUESTION = "what is in this picture? describe it briefly"
PROMPT = "USER: <image>\n" + QUESTION + " ASSISTANT:"  # as the checkpoint's chat template makes it
JINJA = (  # the same for llama.cpp, where the image comes first in the text
    "{% for m in messages %}USER: {{ m['content'] | replace('" + QUESTION + "', '\\n" + QUESTION
) + "') }} {% endfor %}ASSISTANT:"
CLEARED = b"Chat history cleared"

Ask = Callable[[str, int, str], dict[str, int]]


def sts(folder: str, variant: str) -> tuple[Ask, str]:
    """`variant` is BACKEND/DTYPE/WEIGHTS."""
    import sts_cli

    backend, dtype, weights = variant.split("/")
    model = sts_cli.load(
        f"{folder}/model",
        profile="off",
        device="cpu",
        dtype=dtype,
        quantize=weights,
        backend=backend,
        progress=lambda message: print(message, file=sys.stderr),
    )
    for profile in ("off", "aggressive"):
        model.engine.prepare(sts_cli.load_profile(profile))

    def ask(image: str, new: int, profile: str) -> dict[str, int]:
        answer = model.ask(image, QUESTION, profile=profile, max_new_tokens=new)
        return {"prompt": answer.tokens.text + answer.tokens.visual, "new": answer.tokens.generated}

    return ask, f"{version('sts-cli')}, openvino {version('openvino')}"


def transformers(folder: str, variant: str) -> tuple[Ask, str]:
    """`variant` is a dtype. It has the same settings of the CPU as sts."""
    from sts_cli.machine.runtime import settle_cpu

    settle_cpu()
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    path, dtype = f"{folder}/model", getattr(torch, variant)
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype).eval()
    processor = AutoProcessor.from_pretrained(path)

    @torch.inference_mode()
    def ask(image: str, new: int, profile: str) -> dict[str, int]:
        pixels = Image.open(image).convert("RGB")
        inputs = processor(images=pixels, text=PROMPT, return_tensors="pt").to(dtype)
        length = inputs["input_ids"].shape[1]
        limits = {"min_new_tokens": new, "max_new_tokens": new}
        ids = model.generate(**inputs, **limits, do_sample=False)[0, length:]
        processor.decode(ids)
        return {"prompt": length, "new": len(ids)}

    return ask, f"{version('transformers')}, torch {version('torch')}"


def genai(folder: str, variant: str) -> tuple[Ask, str]:
    """`variant` is the precision of the weights. Its own settings, but nothing is reused."""
    import numpy as np
    import openvino as ov
    import openvino_genai
    from PIL import Image

    pipe = openvino_genai.VLMPipeline(
        f"{folder}/openvino-{variant}",
        "CPU",
        ATTENTION_BACKEND="SDPA",  # without the prefix cache
        INFERENCE_NUM_THREADS=int(os.environ["OMP_NUM_THREADS"]),
    )
    config = openvino_genai.GenerationConfig()
    config.ignore_eos = True
    config.apply_chat_template = False

    def ask(image: str, new: int, profile: str) -> dict[str, int]:
        pixels = ov.Tensor(np.asarray(Image.open(image).convert("RGB")))
        config.min_new_tokens = config.max_new_tokens = new
        answer = pipe.generate(PROMPT, images=[pixels], generation_config=config)
        numbers = answer.perf_metrics
        return {
            "prompt": numbers.get_num_input_tokens(),
            "new": numbers.get_num_generated_tokens(),
        }

    return ask, version("openvino-genai")


def llama(folder: str, variant: str) -> tuple[Ask, str]:
    """`variant` is WEIGHTS/TOKENS: llama-mtmd-cli's chat takes the number of tokens when it starts.

    It runs the model once more after the last token, for nothing, so it is asked for one less.
    """
    weights, new_tokens = variant.split("/")
    threads = os.environ["OMP_NUM_THREADS"]
    command = [f"{folder}/llama.cpp/bin/llama-mtmd-cli", "-m", f"{folder}/llama/{weights}.gguf"]
    command += ["--mmproj", f"{folder}/llama/mmproj-model-f16.gguf", "-t", threads, "-c", "1024"]
    command += ["-n", str(int(new_tokens) - 1), "--temp", "0", "--ignore-eos", "--simple-io"]
    command += ["--jinja", "--chat-template", JINJA]
    chat = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )

    def until_cleared(lines: str) -> None:
        chat.stdin.write(lines.encode())
        chat.stdin.flush()
        said = b""
        while CLEARED not in said:
            part = os.read(chat.stdout.fileno(), 65536)
            if not part:
                raise RuntimeError(f"llama-mtmd-cli ended: {said[-500:]!r}")
            said += part

    def ask(image: str, new: int, profile: str) -> dict[str, int]:
        assert new == int(new_tokens)
        until_cleared(f"/image {image}\n{QUESTION}\n/clear\n")
        return {}

    until_cleared("/clear\n")
    return ask, "of llama-cpp-python 0.3.36"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    engine, folder, variant = sys.argv[1:]
    ask, about = {"sts": sts, "transformers": transformers, "genai": genai, "llama": llama}[engine](
        folder, variant
    )
    line: dict[str, Any] = {"version": about}
    print(json.dumps(line), file=answers, flush=True)
    for line in map(json.loads, sys.stdin):
        print(
            json.dumps(ask(line["image"], line["new"], line["profile"])), file=answers, flush=True
        )


if __name__ == "__main__":
    main()
