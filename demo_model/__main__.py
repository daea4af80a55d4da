"""python -m demo_model train | export | evaluate | check | plot | samples"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from sts_cli.machine.runtime import settle_cpu

ROOT = Path(__file__).parent.parent
RUN = ROOT / "demo_model" / "runs" / "small"
DEMO = ROOT / "sts_cli" / "demo"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_model")
    commands = parser.add_subparsers(dest="command", required=True)

    one = commands.add_parser("train", help="all phases; goes on where the folder left off")
    one.add_argument("--folder", type=Path, default=RUN)
    one.add_argument("--minutes", type=float, default=105)
    one.add_argument("--size", choices=("small", "large"), default="small")
    one.add_argument("--device", default="auto")
    one.add_argument("--processes", type=int, default=2, help="on a CPU: one for each core")
    one.add_argument("--workers", type=int, default=1, help="that draw, for each process")
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--weights", type=Path, help="a trained checkpoint to carry on from")
    one.set_defaults(run=train)

    one = commands.add_parser("export", help="write a run's last weights as a checkpoint")
    one.add_argument("--folder", type=Path, default=RUN)
    one.add_argument("--to", type=Path, default=DEMO)
    one.set_defaults(run=export)

    one = commands.add_parser("evaluate", help="exact match by kind on held-out scenes")
    one.add_argument("--model", type=Path, default=DEMO)
    one.add_argument("--scenes", type=int, default=780, help="in each set")
    one.add_argument("--captions", type=int, default=64, help="generated in each set")
    one.add_argument("--sets", nargs="*", help="which sets; all without it")
    one.add_argument("--float32", action="store_true", help="instead of bfloat16")
    one.add_argument("--json", type=Path, help="also write the rows here")
    one.set_defaults(run=evaluate)

    one = commands.add_parser("check", help="the training forward against transformers' own")
    one.set_defaults(run=check)

    one = commands.add_parser("plot", help="draw a run's learning curves")
    one.add_argument("--folder", type=Path, default=RUN)
    one.add_argument("--to", type=Path, default=ROOT / "demo_model" / "curves.png")
    one.set_defaults(run=plot)

    one = commands.add_parser("samples", help="draw the sample pictures and their questions")
    one.add_argument("--to", type=Path, default=ROOT / "samples")
    one.set_defaults(run=samples)

    arguments = parser.parse_args()
    settle_cpu()
    arguments.run(arguments)


def train(arguments: argparse.Namespace) -> None:
    import torch

    from demo_model.train import Settings
    from demo_model.train import train as run

    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    run(
        Settings(
            folder=arguments.folder,
            minutes=arguments.minutes,
            size=arguments.size,
            device=device,
            processes=1 if device != "cpu" else arguments.processes,
            workers=arguments.workers,
            seed=arguments.seed,
            weights=arguments.weights,
        )
    )


def export(arguments: argparse.Namespace) -> None:
    from demo_model.export import export as write

    megabytes = write(arguments.folder, arguments.to)
    print(f"{arguments.to}: {megabytes:.1f} MB")


def evaluate(arguments: argparse.Namespace) -> None:
    import torch

    from demo_model import evaluate as held_out

    dtype = torch.float32 if arguments.float32 else torch.bfloat16
    model = held_out.Model(arguments.model, dtype)
    rows: list[held_out.Row] = []
    written: list[held_out.Captions] = []
    for name in arguments.sets or held_out.SETS:
        rows += held_out.rows(name, held_out.scored(model, name, arguments.scenes))
        if arguments.captions:
            found = held_out.captioned(model, name, arguments.captions)
            written.append(held_out.captions(name, found))
    print(held_out.table(rows))
    for one in written:
        print(
            f"\n{one.set}: {one.n} generated captions, token F1 {one.f1:.3f}; "
            f"generating and scoring agree on {100 * one.agrees:.0f}%"
        )
    if arguments.json:
        every = [asdict(one) for one in (*rows, *written)]
        arguments.json.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")


def check(arguments: argparse.Namespace) -> None:
    from demo_model.check import check as compare

    print(json.dumps(compare()))


def plot(arguments: argparse.Namespace) -> None:
    from demo_model.plot import plot as curves

    curves(arguments.folder, arguments.to)


def samples(arguments: argparse.Namespace) -> None:
    from demo_model.samples import write

    print(f"{arguments.to}: {write(arguments.to)} questions")


if __name__ == "__main__":
    main()
