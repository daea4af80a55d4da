r"""One Linear layer in each precision, by number of rows: python -m benchmarks.linear

Prints one JSON line: median milliseconds for each shape, number of rows and way to compute it. All
are interleaved in one run, over several layers that together are larger than the CPU's caches.
`crossover` is the smallest measured number of rows at which unpacking is faster than the kernel, by
precision and shape (`FEW_ROWS` and `FEW_ROWS_INT4` in sts_cli/quantization/packed.py). The int4
kernel always gets bfloat16 rows. This emulates a CPU without AVX512:

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
        python -m benchmarks.linear --dtype float32
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from sts_cli.machine.hardware import cpu_features, cpu_name
from sts_cli.machine.runtime import settle_cpu

SHAPES = ("2048x8192", "8192x2048", "896x4864", "4864x896")  # in_features x out_features
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256, 600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--rows", nargs="*", type=int, default=ROWS)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--bitsandbytes", action="store_true", help="also its NF4 and int8")
    options = parser.parse_args()
    settle_cpu()
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    shapes = {}
    crossover = {}
    for shape in options.shapes:
        inputs, outputs = (int(side) for side in shape.split("x"))
        ways = Ways(inputs, outputs, getattr(torch, options.dtype), options.bitsandbytes)
        shapes[shape] = {str(rows): ways.measure(rows, options.repeat) for rows in options.rows}
        for precision in ("int8", "int4"):
            crossover[f"{precision} {shape}"] = next(
                (
                    rows
                    for rows in options.rows
                    if shapes[shape][str(rows)][f"{precision} unpacked"]
                    < shapes[shape][str(rows)][precision]
                ),
                None,
            )
    facts = {
        "benchmark": "linear",
        "cpu": cpu_name(),
        "features": cpu_features(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": options.dtype,
    }
    print(json.dumps({**facts, "crossover": crossover, "milliseconds": shapes}))


class Ways:
    """The ways to compute one layer, each with its own copies of several random weights."""

    def __init__(self, inputs: int, outputs: int, dtype, with_bitsandbytes: bool):
        import torch
        from torch.nn.functional import linear

        from sts_cli.quantization.packed import (
            GROUP,
            pack_int4,
            pack_int8,
            unpacked_int4,
            unpacked_int8,
        )

        torch.manual_seed(0)
        copies = max(3, 160_000_000 // (inputs * outputs * dtype.itemsize))
        dense = [torch.randn(outputs, inputs).to(dtype) for _ in range(copies)]
        int8 = [pack_int8(weight, dtype) for weight in dense]
        int4 = [pack_int4(weight) for weight in dense]
        self.inputs, self.copies, self.dtype = inputs, copies, dtype
        kernel8 = torch.ops.aten._weight_int8pack_mm
        kernel4 = torch.ops.aten._weight_int4pack_mm_for_cpu
        self.ways: dict[str, Callable] = {
            "dense": lambda x, i: linear(x, dense[i]),
            "int8": lambda x, i: kernel8(x, *int8[i]),
            "int8 unpacked": lambda x, i: unpacked_int8(x, int8[i][0]).mul_(int8[i][1]),
            "int4": lambda x, i: kernel4(x.bfloat16(), int4[i][0], GROUP, int4[i][1]).to(dtype),
            "int4 unpacked": lambda x, i: unpacked_int4(x, *int4[i]),
        }
        if with_bitsandbytes:
            self.ways |= bitsandbytes(dense)

    def measure(self, rows: int, repeat: int) -> dict[str, float]:
        """Median milliseconds of each way for `rows` rows."""
        import torch

        x = torch.randn(rows, self.inputs).to(self.dtype)
        taken: dict[str, list[float]] = {name: [] for name in self.ways}
        with torch.inference_mode():
            for turn in range(repeat + 1):
                for name, way in self.ways.items():
                    start = time.perf_counter()
                    way(x, turn % self.copies)
                    taken[name].append((time.perf_counter() - start) * 1e3)
        return {name: round(statistics.median(times[1:]), 3) for name, times in taken.items()}


def bitsandbytes(dense: list) -> dict[str, Callable]:
    """The layers of bitsandbytes with the same weights; only three, as they take long to make."""
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    nf4, int8 = [], []
    for weight in dense[:3]:
        outputs, inputs = weight.shape
        four = Linear4bit(inputs, outputs, bias=False, compute_dtype=weight.dtype, quant_type="nf4")
        four.weight = Params4bit(weight, requires_grad=False, quant_type="nf4")
        nf4.append(four.to("cpu"))
        eight = Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
        eight.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        int8.append(eight.to("cpu"))
    return {
        "bitsandbytes nf4": lambda x, i: nf4[i % 3](x),
        "bitsandbytes int8": lambda x, i: int8[i % 3](x),
    }


if __name__ == "__main__":
    main()
