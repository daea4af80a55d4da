"""Memory and seconds of loading, for each precision: python -m benchmarks.loading

Writes a random LLaVA of 1.2 billion parameters to a temporary folder, loads it in a new process per
precision, and prints one JSON line. `peak` is the most private memory of the process (anonymous
pages; the checkpoint's pages belong to the system's file cache), `final` is that after loading;
both without the memory before loading. Memory is in decimal gigabytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = ("none", "int8", "int4", "nf4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--precision", nargs="*", default=list(PRECISIONS))
    parser.add_argument("--load", nargs=2, metavar=("FOLDER", "PRECISION"), help="used by itself")
    parser.add_argument("--keep", action="store_true", help="used by itself")
    options = parser.parse_args()
    if options.load:
        print(json.dumps(measure(Path(options.load[0]), options.load[1], options.keep)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.layers, options.width)
        result = {
            precision: separate(folder, precision, {"STS_CACHE": ""})
            for precision in options.precision
        }
        if "int4" in result:
            cache = {"STS_CACHE": f"{folder}/cache"}
            separate(folder, "int4", cache, "--keep")
            result["int4, kept on disk"] = separate(folder, "int4", cache)
    print(json.dumps({"benchmark": "loading", **facts(options), "precisions": result}))


def facts(options: argparse.Namespace) -> dict[str, int]:
    return {"layers": options.layers, "width": options.width}


def separate(
    folder: str, precision: str, environment: dict[str, str], *options: str
) -> dict[str, float]:
    """The figures of `measure` in a new process."""
    command = [sys.executable, __file__, "--load", folder, precision, *options]
    process = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(process.stdout))


def measure(folder: Path, precision: Any, keep: bool) -> dict[str, float]:
    """Gigabytes and seconds of loading `folder`; with `keep` the model is saved in the cache."""
    from sts_cli.machine.runtime import settle_cpu

    settle_cpu()
    import transformers.models.llava.modeling_llava  # noqa: F401  imported by every load

    from sts_cli.checkpoints.sources import find
    from sts_cli.loading.model import load
    from sts_cli.quantization import disk_cache

    before = private()
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], private())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    source = find(str(folder))
    loaded = load(source, device="cpu", quantize=precision)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if keep:
        assert source.checkpoint is not None
        path = disk_cache.cache_path(source.checkpoint, precision, loaded.device, loaded.dtype)
        assert path is not None  # there is a cache
        disk_cache.store(loaded.model, source.checkpoint, path, 1, print_to_stderr)
    size = sum(tensor.nbytes for tensor in {*loaded.model.parameters(), *loaded.model.buffers()})
    return {
        "weights": round(size / 1e9, 3),
        "final": round((private() - before) / 1e9, 3),
        "peak": round((peak[0] - before) / 1e9, 3),
        "seconds": round(seconds, 2),
    }


def print_to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


def private() -> int:
    """This process's anonymous memory in bytes."""
    status = Path("/proc/self/status").read_text("utf-8")
    return next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")
    )


def write(folder: Path, layers: int, width: int) -> None:
    """Write a random LLaVA in bfloat16 with the processor files of the tests' tiny one."""
    sys.path.insert(0, str(ROOT / "tests"))
    import checkpoints
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    checkpoints.write("llava", folder)
    vision = CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=112,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 256,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=3,
        vision_feature_select_strategy="default",
        image_seq_length=64,
    )
    with torch.device("meta"):
        model = Llava(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.uniform_(-0.02, 0.02) if tensor.is_floating_point() else tensor.zero_()
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
