"""python -m second_model FOLDER --minutes 60: train, go on where it stopped, write a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from sts_cli.machine.runtime import settle_cpu

DEMO = Path(__file__).parent.parent / "sts_cli" / "demo"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m second_model")
    parser.add_argument("folder", type=Path, help="of the state, the log and the checkpoint")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--images", type=int, default=2, help="pictures in a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    settle_cpu()

    import torch

    from second_model import build
    from second_model.train import Run, Settings

    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        options.folder, options.minutes, options.images, options.seed, options.device
    )
    run = Run(settings, *build.trained(build.weights()), DEMO)
    run.train()
    run.export()


if __name__ == "__main__":
    main()
