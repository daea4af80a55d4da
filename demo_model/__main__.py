"""python -m demo_model train | export | evaluate | check | plot | samples | scorer"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from sts_cli.machine.runtime import settle_cpu

ROOT = Path(__file__).parent.parent
RUN = ROOT / "demo_model" / "runs" / "small"
DEMO = ROOT / "sts_cli" / "demo"
SCORER = ROOT / "sts_cli" / "pruning" / "learnpruner.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_model")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("train", help="run all phases; continues the folder's last run")
    command.add_argument("--folder", type=Path, default=RUN)
    command.add_argument("--minutes", type=float, default=105)
    command.add_argument("--size", choices=("small", "large"), default="small")
    command.add_argument("--device", default="auto")
    command.add_argument("--processes", type=int, default=2, help="on a CPU: one for each core")
    command.add_argument("--workers", type=int, default=1, help="drawing processes per process")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--weights", type=Path, help="a trained checkpoint to start from")
    command.set_defaults(run=train)

    command = commands.add_parser("export", help="write a run's last weights as a checkpoint")
    command.add_argument("--folder", type=Path, default=RUN)
    command.add_argument("--to", type=Path, default=DEMO)
    command.set_defaults(run=export)

    command = commands.add_parser("evaluate", help="exact match by kind on held-out scenes")
    command.add_argument("--model", type=Path, default=DEMO)
    command.add_argument("--scenes", type=int, default=400, help="in each set")
    command.add_argument("--sets", nargs="*", help="names of sets; default: all")
    command.add_argument("--dtype", default="auto", help="such as float32")
    command.add_argument("--json", type=Path, help="also write the rows here")
    command.set_defaults(run=evaluate)

    command = commands.add_parser("check", help="the training forward against transformers' own")
    command.set_defaults(run=check)

    command = commands.add_parser("plot", help="draw a run's learning curves")
    command.add_argument("--folder", type=Path, default=RUN)
    command.add_argument("--to", type=Path, default=ROOT / "demo_model" / "curves.png")
    command.set_defaults(run=plot)

    command = commands.add_parser("samples", help="draw the sample pictures and their questions")
    command.add_argument("--to", type=Path, default=ROOT / "samples")
    command.set_defaults(run=samples)

    command = commands.add_parser("scorer", help="train LearnPruner's scorer of a model")
    command.add_argument("--model", default="demo", help="as for sts --model")
    command.add_argument("--scenes", type=int, default=300)
    command.add_argument("--hidden", type=int, default=96, help="values inside")
    command.add_argument("--to", type=Path, default=SCORER)
    command.set_defaults(run=scorer)

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
    from demo_model import evaluate as held_out

    sets = dict.fromkeys(arguments.sets or held_out.SETS, arguments.scenes)
    rows = held_out.rows(held_out.scores(arguments.model, arguments.dtype, sets))
    print(held_out.table(rows))
    if arguments.json:
        records = [asdict(figures) for figures in rows]
        arguments.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def check(arguments: argparse.Namespace) -> None:
    from demo_model.check import check as compare

    print(json.dumps(compare()))


def plot(arguments: argparse.Namespace) -> None:
    from demo_model.plot import plot as curves

    curves(arguments.folder, arguments.to)


def samples(arguments: argparse.Namespace) -> None:
    from demo_model.samples import write

    print(f"{arguments.to}: {write(arguments.to)} questions")


def scorer(arguments: argparse.Namespace) -> None:
    from demo_model.scorer import train as learn

    learn(arguments.model, arguments.to, arguments.scenes, arguments.hidden, print)


if __name__ == "__main__":
    main()
