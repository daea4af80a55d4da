"""python -m demo_model train | export | evaluate | samples | plot"""

from __future__ import annotations

import argparse
from pathlib import Path

from sts_cli.runtime import settle_cpu

RUNS = Path(__file__).parent / "runs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_model")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="all phases; goes on where the folder left off")
    train.add_argument("--folder", type=Path, default=RUNS / "small")
    train.add_argument("--minutes", type=float, default=150)
    train.add_argument("--size", choices=("small", "large"), default="small")
    train.add_argument("--device", default="auto")
    train.add_argument("--processes", type=int, default=2, help="on a CPU: one for each core")
    train.add_argument("--workers", type=int, default=1, help="that draw, for each process")
    train.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    settle_cpu()
    if arguments.command == "train":
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
            )
        )


if __name__ == "__main__":
    main()
