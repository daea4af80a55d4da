"""Where each layer looks: python -m second_model.looks FOLDER [--scenes 12]

For questions that name one thing: how well a layer's attention to the image tells that thing from
others. The figure is the chance that a patch at the thing's place gets more attention than a patch
of another thing, in per cent; 50 is blind. For the last token before the answer, and for the mean
of all words. The checkpoint is one of `second_model`, or the demo.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from sts_cli.machine.runtime import settle_cpu

settle_cpu()

import torch  # noqa: E402  (after the CPU's settings)
from torch import Tensor  # noqa: E402
from transformers import AutoTokenizer, LlavaForConditionalGeneration  # noqa: E402

from demo_model import build as demo  # noqa: E402
from demo_model import forward, losses  # noqa: E402
from demo_model.labels import COLUMNS, GRID  # noqa: E402
from demo_model.stream import example  # noqa: E402
from demo_model.train import encoded  # noqa: E402
from second_model import build  # noqa: E402
from second_model.train import KINDS  # noqa: E402
from sts_cli.scenes.drawing import draw  # noqa: E402
from sts_cli.scenes.suite import DEVELOPMENT  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=12)
    options = parser.parse_args()
    tokens = AutoTokenizer.from_pretrained(options.folder)
    model = LlavaForConditionalGeneration.from_pretrained(
        options.folder, dtype=torch.bfloat16, attn_implementation="eager"
    ).eval()
    own = "<|user|>" not in tokens.get_vocab()
    roles = (build.ROLES[name] if own else name for name in ("<|user|>", "<|assistant|>"))
    packer = losses.Packer(tokens, 320, 16, *roles)
    found = [seen(model, packer, DEVELOPMENT + number) for number in range(options.scenes)]
    scores = torch.cat(found).mean(0)
    print(f"| layer of {scores.shape[1]} | last token | all words |\n|---:|---:|---:|")
    for layer, (last, words) in enumerate(scores.T.tolist(), 1):
        print(f"| {layer} | {100 * last:.0f} | {100 * words:.0f} |")
    print(f"\n{sum(map(len, found))} questions")


@torch.no_grad()
def seen(model: Any, packer: losses.Packer, seed: int) -> Tensor:
    """Chances [questions, 2, layers] for the questions about a scene that name one thing."""
    scene = example(draw(seed, 0.0))
    packed, _ = packer.pack([scene.things], random.Random(seed), lambda _: KINDS)
    ((features, _, _),) = encoded(demo.tower_of(model), [scene], torch.device("cpu"))
    where = torch.arange(GRID * GRID)[None]
    prefix = torch.tensor(packer.prefix)
    hidden, places, mask = forward.laid(model, features[None], where, packed, prefix)
    out = model.model.language_model(
        inputs_embeds=hidden,
        position_ids=places,
        attention_mask=mask,
        use_cache=False,
        output_attentions=True,
    )
    first = len(prefix) + where.shape[1]
    looks = torch.stack(out.attentions)[:, 0, :, first:, len(prefix) : first].float().mean(1)
    thing = torch.from_numpy(scene.labels[:, COLUMNS.index("thing")]).int()
    rows = []
    for number in range(int(packed["segment"].max()) + 1):
        own = packed["segment"][0] == number
        last = int((own & packed["predicts"][0]).nonzero()[0])
        begin = int(own.nonzero()[0])
        named = [
            cells
            for (_, token), cells in zip(packed["naming"].tolist(), packed["cells"], strict=True)
            if begin <= token < last and cells.sum() == 1
        ]
        there = named[-1][losses.CELL] > 0 if named else thing == 0
        elsewhere = (thing > 0) & ~torch.isin(thing, thing[there])
        if named and elsewhere.any():
            both = looks[:, last], looks[:, begin:last].mean(1)
            rows.append(torch.stack([chance(part[:, there], part[:, elsewhere]) for part in both]))
    return torch.stack(rows) if rows else torch.zeros(0, 2, len(looks))


def chance(here: Tensor, elsewhere: Tensor) -> Tensor:
    """The chance [layers] that a score `here` [layers, n] is higher than one `elsewhere`."""
    higher = (here[:, :, None] > elsewhere[:, None]).float()
    level = (here[:, :, None] == elsewhere[:, None]).float()
    return (higher + level / 2).mean((1, 2))


if __name__ == "__main__":
    main()
