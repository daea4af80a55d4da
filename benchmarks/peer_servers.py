"""One engine for benchmarks/peers.py: python peer_servers.py ENGINE FOLDER VARIANT

Loads the model, writes its version, then answers each JSON line on stdin (`image`, `new` tokens,
`profile` (for GenAI: percent of visual tokens to drop), `questions` about it) by one on stdout:
tokens of a prompt, in the layers' average, and of its answer, where the engine tells them. sts and
transformers take the questions as one batch, the others one by one. Engines have environments of
their own, so only the standard library is imported before.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any

QUESTION = "what is in this picture? describe it briefly"
PLACES = {"llava": "<image>\n", "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>"}
TURN = "USER: {{ m['content'] | replace('?', '\\n?') }} "  # for llama.cpp
JINJA = "{% for m in messages %}" + TURN.replace("?", QUESTION) + "{% endfor %}ASSISTANT:"


def prompt_of(folder):
    """As the checkpoint's chat template makes it."""
    with open(f"{folder}/model/config.json") as file:
        return f"USER: {PLACES[json.load(file)['model_type']]}{QUESTION} ASSISTANT:"


def sts(folder, way):
    import sts_cli

    backend, dtype, weights = way.split("/")
    options = {"dtype": dtype, "quantize": weights, "backend": backend}
    model = sts_cli.load(f"{folder}/model", profile="off", device="cpu", **options)

    def ask(image, new, profile, questions):
        items, limits = [(image, QUESTION)] * questions, {"batch_size": questions}
        answers = list(model.batch(items, profile=profile, max_new_tokens=new, **limits))
        tokens = answers[-1].tokens
        assert tokens is not None
        return [round(tokens.text + tokens.average), tokens.generated]

    return ask, f"{version('sts-cli')}, OpenVINO {version('openvino')}"


def transformers(folder, dtype):
    """The CPU's settings are those of sts."""
    from sts_cli.machine.runtime import settle_cpu

    settle_cpu()
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    path, kind = f"{folder}/model", getattr(torch, dtype)
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=kind).eval()
    processor, prompt = AutoProcessor.from_pretrained(path), prompt_of(folder)

    @torch.inference_mode()
    def ask(image, new, profile, questions):
        pixels = [[Image.open(image).convert("RGB")]] * questions
        inputs = processor(images=pixels, text=[prompt] * questions, return_tensors="pt").to(kind)
        limits = {"min_new_tokens": new, "max_new_tokens": new, "do_sample": False}
        ids, length = model.generate(**inputs, **limits)[0], inputs["input_ids"].shape[1]
        processor.decode(ids[length:])
        return [length, len(ids) - length]

    return ask, f"{version('transformers')}, torch {version('torch')}"


def genai(folder, weights):
    """Nothing is kept of earlier prompts."""
    import numpy as np
    import openvino as ov
    import openvino_genai
    from PIL import Image

    cache = openvino_genai.SchedulerConfig()
    cache.enable_prefix_caching, cache.cache_size = False, 1
    settings = {"scheduler_config": cache, "INFERENCE_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}
    if os.environ["GENAI_HINT"]:
        settings["INFERENCE_PRECISION_HINT"] = os.environ["GENAI_HINT"]
    pipe = openvino_genai.VLMPipeline(f"{folder}/openvino-{weights}", "CPU", **settings)
    config = openvino_genai.GenerationConfig()
    config.ignore_eos, config.apply_chat_template = True, False
    prompt = prompt_of(folder).replace("\n", "")  # it writes the line break after the image itself

    def ask(image, new, profile, questions):
        pixels = ov.Tensor(np.asarray(Image.open(image).convert("RGB")))
        config.min_new_tokens = config.max_new_tokens = new
        config.pruning_ratio = int(profile)
        for _ in range(questions):
            told = pipe.generate(prompt, images=[pixels], generation_config=config).perf_metrics
        return [told.get_num_input_tokens(), told.get_num_generated_tokens()]

    return ask, version("openvino-genai")


def llama(folder, variant):
    """`variant` is WEIGHTS/TOKENS. The chat runs the model once more after its last token, for
    nothing, so it is asked for one less."""
    weights, new = variant.split("/")
    command = [f"{folder}/llama.cpp/bin/llama-mtmd-cli", "-m", f"{folder}/llama/{weights}.gguf"]
    command += ["--mmproj", f"{folder}/llama/mmproj-model-f16.gguf", "-c", "1024", "--temp", "0"]
    command += ["-t", os.environ["OMP_NUM_THREADS"], "-n", str(int(new) - 1), "--ignore-eos"]
    command += ["--jinja", "--chat-template", JINJA]
    chat: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def say(lines):
        os.write(chat.stdin.fileno(), f"{lines}/clear\n".encode())
        heard = b""
        while b"Chat history cleared" not in heard:
            part = os.read(chat.stdout.fileno(), 65536)
            if not part:
                sys.exit(f"llama-mtmd-cli ended: {heard[-200:]!r}")
            heard += part

    def ask(image, questions, **rest):
        for _ in range(questions):
            say(f"/image {image}\n{QUESTION}\n")

    say("")
    return ask, "in llama-cpp-python 0.3.36"


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    engines = {"sts": sts, "transformers": transformers, "genai": genai, "llama": llama}
    ask, about = engines[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(ask(**json.loads(line))), file=answers, flush=True)
