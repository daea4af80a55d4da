"""Each phase of a question beside the most that this machine can do.

    python -m benchmarks.limits --way openvino/float32/int8 --repeats 5

Measures matrix products of the model's shape in each precision, and one large read of memory, best
of repeats. Counts each phase's operations, and the bytes of weights and KV cache that it reads. The
longer of both is its `limit`; `achieved` is the limit by the seconds taken (of benchmarks.phases).
OpenVINO multiplies small weights as 8-bit integers, so that rate counts there. Only LLaVA (CLIP,
Llama) is counted. A table goes to stderr, one JSON line to stdout.
"""

from __future__ import annotations

import json
import sys
import timeit
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

from benchmarks import phases  # first: it makes the CPU's settings
from sts_cli.checkpoints.sources import find
from sts_cli.loading.model import outline
from sts_cli.machine.hardware import cpu_name
from sts_cli.profile import Profile
from sts_cli.profile_files import load_profile

import torch  # isort: skip

ROWS, LAYERS, READ = 768, 4, 1 << 30  # of the matrix products; bytes of the read


class Work(NamedTuple):
    operations: float
    bytes: float  # to read


def sizes_of(way: str) -> tuple[str, float, int]:
    """The precision of products; bytes of a weight, and of a number in the KV cache."""
    parts: Any = way.split("/")
    backend, dtype, weights = parts
    item = getattr(torch, dtype).itemsize
    weight = {"none": item, "int8": 1}.get(weights, 0.5)
    if backend != "openvino":
        return dtype, weight, item
    from sts_cli.openvino.decoder import settings_for

    cache = settings_for(getattr(torch, dtype), weights)["KV_CACHE_PRECISION"]
    return dtype if weights == "none" else "int8", weight, {"f32": 4, "f16": 2}[cache]


def fastest(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest run, after a warm-up."""
    return min(timeit.repeat(run, number=1, repeat=repeats + 1)[1:])


def rates(width: int, inner: int, repeats: int) -> dict[str, float]:
    """Operations per second of matrix products by precision."""
    operations = 2 * ROWS * width * inner
    runs: dict[str, tuple[float, Callable[[], Any]]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        given, weight = (torch.randn(rows, width).to(dtype) for rows in (ROWS, inner))
        name = str(dtype).removeprefix("torch.")
        runs[name] = operations, partial(torch.matmul, given, weight.T)
    if find_spec("openvino"):
        runs["int8"] = 2 * LAYERS * operations, openvino_int8(width, inner)
    return {name: count / fastest(run, repeats) for name, (count, run) in runs.items()}


def openvino_int8(width: int, inner: int) -> Callable[[], Any]:
    """LAYERS pairs of products, one after the other, as this package's int8 layers do them."""
    import openvino as ov
    from openvino import opset13 as ops

    from sts_cli.openvino.decoder import settings_for
    from sts_cli.openvino.weights import int8

    given = out = ops.parameter([ROWS, width], ov.Type.f32)
    for shape in [(inner, width), (width, inner)] * LAYERS:
        out = ops.matmul(out, int8(torch.randn(shape) / shape[1] ** 0.5), False, True)
    threads = {"INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    settings = {**threads, **settings_for(torch.float32, "int8")}
    model = ov.Core().compile_model(ov.Model([out], [given], "int8"), "CPU", settings)
    rows = torch.randn(ROWS, width).numpy()
    return lambda: model([rows], share_inputs=True)


def bandwidth(repeats: int) -> float:
    """Bytes per second of one large read by all threads."""
    rows, column = torch.ones(READ // 16384, 4096), torch.ones(4096)
    return READ / min(fastest(rows.sum, repeats), fastest(lambda: rows @ column, repeats))


def works(
    config: Any, profile: Profile, text: int, visual: int, new: int, weight: float, number: int
) -> dict[str, Work]:
    """The work of each phase of one question; `weight` and `number` as in `sizes_of`."""
    eye, llm = config.vision_config, config.text_config
    side, width, heads = eye.hidden_size, llm.hidden_size, llm.num_attention_heads
    inside = heads * (getattr(llm, "head_dim", None) or width // heads)
    states = inside // heads * llm.num_key_value_heads  # of keys, and as many of values
    read, rows = config.vision_feature_layer, visual + 1
    layers = read if read >= 0 else eye.num_hidden_layers + 1 + read
    tower = layers * (4 * side * side + 2 * side * eye.intermediate_size)
    ends = (3 * eye.patch_size**2 + width) * side + width * width  # patches and projector
    operations = 2 * rows * tower + 2 * visual * ends + 4 * layers * rows * rows * side
    found = {"encode": Work(operations, (tower + ends) * weight)}
    layer = 2 * width * (inside + states) + 3 * width * llm.intermediate_size
    head = width * llm.vocab_size
    weights = (llm.num_hidden_layers * layer + head) * weight
    prefill = token = 2 * head
    cached = 0.0
    steps = profile.steps(llm.num_hidden_layers)
    for (_, span, _), left in zip(steps, [visual, *profile.budgets(visual)], strict=True):
        rows, held = text + left, text + left + new / 2  # `held`: amid the answer
        pairs = 2 * rows * rows * inside  # half of all: no token sees those after it
        work = Work(len(span) * (2 * rows * layer + pairs), len(span) * layer * weight)
        if span:
            found[f"prefill {span.start}-{span.stop}, {rows} tokens"] = work
        prefill += work.operations
        token += len(span) * (2 * layer + 4 * held * inside)
        cached += len(span) * 2 * held * states * number
    return {**found, "prefill": Work(prefill, weights), "token": Work(token, weights + cached)}


def main() -> None:
    wish = phases.one_way(__doc__.splitlines()[0], new=8).parse_args()
    profile, (product, weight, number) = load_profile(wish.profile), sizes_of(wish.way)
    with phases.checkpoint(wish.model, wish.shape) as model:
        checkpoint = find(model).checkpoint
        assert checkpoint is not None
        family = outline(model, checkpoint)
        pixels = family.pixels(phases.pictures(1)[0])
        text = len(family.tokenize(phases.QUESTION, [pixels])) - pixels.count
        llava = family.model.config
        llm = llava.text_config
        rate = rates(llm.hidden_size, llm.intermediate_size, 10 * wish.repeats)
        wide = bandwidth(wish.repeats)
        runs = phases.contestants(model, [wish.way], [profile], "cpu", wish.new, 1)
        run = runs[f"{wish.way} {profile.name}"]
        times = [run(phases.pictures(1)) for _ in range(wish.repeats + 1)][1:]
    taken = {name: median(seconds[name] for seconds in times) for name in phases.PHASES}
    rows: dict[str, dict[str, float]] = {}
    work_of = works(llava, profile, text, pixels.count, wish.new, weight, number)
    for name, work in work_of.items():
        limit = max(work.operations / rate[product], work.bytes / wide)
        rows[name] = {"GFLOP": work.operations / 1e9, "MB": work.bytes / 1e6, "limit": limit}
        if name in taken:
            rows[name]["achieved"] = limit / taken[name]
    for name, seconds in taken.items():
        rows.setdefault(name, {}).update(seconds=seconds, share=seconds / taken["total"])
    columns = ("GFLOP", "MB", "limit", "seconds", "achieved", "share")
    table = [f"{wish.way + ' ' + profile.name:36}" + "".join(f"{name:>10}" for name in columns)]
    for name, row in rows.items():
        cells = (f"{row[column]:10.4f}" if column in row else " " * 10 for column in columns)
        table.append(f"{name:36}" + "".join(cells))
    speeds = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in rate.items())
    table.append(f"10^9 operations/s: {speeds}; memory: {wide / 1e9:.1f} GB/s")
    print("\n".join(table), file=sys.stderr)
    facts = {"cpu": cpu_name(), "threads": torch.get_num_threads(), "product": product}
    limits = {"operations per second": rate, "bytes per second": wide}
    print(json.dumps({"benchmark": "limits", **vars(wish), **facts, **limits, "results": rows}))


if __name__ == "__main__":
    main()
