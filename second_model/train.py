"""Training of the second model by answers alone, for a budget of minutes."""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo_model import build as demo
from demo_model import forward, losses
from demo_model.labels import GRID
from demo_model.optimizer import Optimizer, schedule
from demo_model.stream import Difficulty, Example, Ring, Stream, example
from demo_model.train import MOST, VALIDATION_SEED, Encoded, by_kind, encoded, mean, some
from second_model import build
from sts_cli.scenes.drawing import draw

KINDS = {  # the weight of each kind of question that is taught
    "text": 3.0,
    "color": 3.0,
    "shape": 3.0,
    "place": 1.5,
    "sign_color": 1.0,
    "text_color": 1.0,
}
SHOWN = 64, 16  # visual tokens of most steps: a base, and more for each shape
WHOLE = 8  # every so many steps with all 576 tokens
RATE = {"projector": 1e-3, "adapters": 2e-3}
ALIGNED = 96, 400  # scenes and steps that the projector starts with
DENSE = 0.25  # share of scenes of many signs, from the second shape on
REUSE = 1  # uses of a scene: those used three times were learned by heart
EVERY = 600.0  # seconds between states, and between looks at held-out scenes


@dataclass(frozen=True)
class Settings:
    """The settings of a run."""

    folder: Path  # of the state, the log and the checkpoint
    minutes: float
    images: int = 2  # pictures in a step, each with up to 16 questions
    seed: int = 1
    device: str = "cpu"
    scenes: int = 8  # held-out ones that are looked at


class Run:
    """A run: the model, what is known of it, and the scenes that it is taught with."""

    def __init__(self, settings: Settings, text: Any, tokens: Any, eye: Path):
        torch.manual_seed(settings.seed)
        self.settings, self.tokens = settings, tokens
        self.device = torch.device(settings.device)
        self.rng = random.Random(settings.seed)
        self.model: Any = build.assembled(text, tokens, eye)
        self.vision: Any = demo.tower_of(self.model).bfloat16().to(self.device)
        self.packer = losses.Packer(
            tokens, 320, user=build.ROLES["<|user|>"], assistant=build.ROLES["<|assistant|>"]
        )
        self.prefix = torch.tensor(self.packer.prefix, device=self.device)
        self.elapsed = 0.0

    def seen(self, examples: list[Example]) -> list[Encoded]:
        """The features of pictures, computed once: the tower does not learn."""
        return encoded(self.vision, examples, self.device)

    def train(self) -> None:
        """Teach until the minutes are spent, from the folder's last state if there is one."""
        path = self.settings.folder / "state.pt"
        state = torch.load(path, weights_only=True) if path.exists() else None
        if state is None:
            self.align()
        learning = build.adapt(self.model)
        if state is not None:
            self.model.load_state_dict(state["learned"], strict=False)
            self.elapsed = state["elapsed"]
        self.model.to(self.device, torch.bfloat16)
        groups = [
            (RATE["projector"], [pair for pair in learning if "projector" in pair[0]]),
            (RATE["adapters"], [pair for pair in learning if "projector" not in pair[0]]),
        ]
        optimizer = Optimizer(groups)
        if state is not None:
            optimizer.load(state["optimizer"])
        self.teach(optimizer, [name for name, _ in learning])

    def align(self) -> None:
        """Start the projector as a translation of the tower's own labels into words."""
        scenes, steps = ALIGNED
        drawn = [example(draw(VALIDATION_SEED // 2 + i, 0.0)) for i in range(scenes)]
        features = torch.cat([row[0] for row in self.seen(drawn)]).float()
        labels = torch.from_numpy(np.concatenate([item.labels for item in drawn])).long()
        things = labels[:, build.KIND] > 0
        chosen = things | (torch.rand(len(things)) < things.float().mean())
        embedding = self.model.get_input_embeddings().weight.detach().float()
        meaning = build.translated(labels[chosen], embedding, self.tokens)
        projector = self.model.model.multi_modal_projector
        left = build.align(projector, features[chosen.to(self.device)], meaning, steps)
        self.note({"phase": "align", "left": round(left, 4)})

    def teach(self, optimizer: Optimizer, names: list[str]) -> None:
        """Teach for the rest of the minutes; `names` are those of the weights that learn."""
        seed = 300_000_000 * self.settings.seed + round(1000 * self.elapsed)  # a new one each time
        stream = Stream(seed, 1, Difficulty())
        ring: Ring[Encoded] = Ring(stream, self.seen, 64, REUSE)
        begun = time.monotonic() - self.elapsed
        kept = self.elapsed
        recent: list[dict[str, float]] = []
        step = 0
        while (done := self.elapsed / (60 * self.settings.minutes)) < 1:
            most = min(MOST, 1 + int(8 * done))
            stream.set(Difficulty(0.0, most, DENSE * (most > 1)))
            visual = GRID * GRID if step % WHOLE == WHOLE - 1 else SHOWN[0] + SHOWN[1] * most
            drawn = ring.sample(self.settings.images, self.rng)
            loss, measured = self.asked(drawn, visual, self.rng)
            loss.backward()
            norm = optimizer.step(schedule(done))
            recent.append(measured | {"loss": float(loss.detach()), "norm": norm})
            step, self.elapsed = step + 1, time.monotonic() - begun
            if step % 20 == 0:
                row = {"phase": "words", "step": step, "shapes": most, "drawn": ring.drawn}
                self.note(row | mean(recent))
                recent = []
            if self.elapsed - kept > EVERY:
                self.note({"phase": "words", "validation": self.validate()})
                self.save(optimizer, names)
                kept = self.elapsed = time.monotonic() - begun
        stream.close()
        self.note({"phase": "words", "validation": self.validate()})
        self.save(optimizer, names)

    def asked(
        self, drawn: list[Encoded], visual: int, rng: random.Random
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of answers about pictures of which `visual` tokens are seen, and the shares
        of right answers by kind."""
        every, shows, things = zip(*drawn, strict=True)
        where = torch.stack([some(mask, visual) for mask in shows]).to(self.device)
        features = torch.stack(every).to(self.model.lm_head.weight.dtype)
        features = features.gather(1, where[..., None].expand(-1, -1, features.shape[-1]))
        packed, kinds = self.packer.pack(list(things), rng, lambda _: KINDS)
        packed = {name: value.to(self.device) for name, value in packed.items()}
        shares = torch.stack([sizes(*row) for row in zip(shows, where.cpu(), strict=True)])
        logits = self.logits(features, where, packed, shares.to(self.device))
        loss, right = losses.answered(logits, packed)
        return loss, by_kind(kinds, right)

    def logits(
        self, features: Tensor, where: Tensor, packed: dict[str, Tensor], shares: Tensor
    ) -> Tensor:
        """Logits [n, V] of the answers' tokens, by transformers' own layers.

        A visual token counts in attention as many as it stands for, `shares` [B, N].
        """
        hidden, places, mask = forward.laid(self.model, features, where, packed, self.prefix)
        first = len(self.prefix)
        mask[..., first : first + where.shape[1]] += shares.log().to(mask.dtype)[:, None, None]
        out = self.model.model.language_model(
            inputs_embeds=hidden, position_ids=places, attention_mask=mask, use_cache=False
        )
        return forward.read(self.model, out.last_hidden_state, packed)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Exact match by kind on held-out easy scenes, with all 576 tokens."""
        rng, rows = random.Random(0), []
        for number in range(0, self.settings.scenes, 2):
            drawn = self.seen([example(draw(VALIDATION_SEED + number + i, 0.0)) for i in (0, 1)])
            rows.append(self.asked(drawn, GRID * GRID, rng)[1])
        return mean(rows)

    def note(self, row: dict[str, Any]) -> None:
        with (self.settings.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"minute": round(self.elapsed / 60, 2), **row}) + "\n")

    def save(self, optimizer: Optimizer, names: list[str]) -> None:
        """Write the state, from which a run goes on."""
        state = {
            "learned": {name: self.model.get_parameter(name).detach() for name in names},
            "optimizer": optimizer.state(),
            "elapsed": self.elapsed,
        }
        path = self.settings.folder / "state.pt"
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def export(self) -> None:
        """Write the checkpoint, with the adapters merged into the layers."""
        build.merge(self.model)
        demo.save(self.model, self.tokens, self.settings.folder / "checkpoint")


def sizes(thing: Tensor, where: Tensor) -> Tensor:
    """How many patches each of those at `where` [N] stands for: of things, or of background.

    `thing` [576] is True where a thing is. Without this a model that is taught with few tokens
    finds nothing among all 576.
    """
    shows = thing[where]
    found = thing.sum() / shows.sum().clamp(min=1)
    empty = (~thing).sum() / (~shows).sum().clamp(min=1)
    return torch.where(shows, found, empty)
