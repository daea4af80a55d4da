"""Training in five phases, on one or several processes, for a budget of minutes."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from demo_model import build, forward, losses
from demo_model.labels import GRID, HEADS, labels, patches
from demo_model.optimizer import Optimizer, schedule
from demo_model.pointing import CELLS, Things
from demo_model.stream import Difficulty, Example, Ring, Stream, example
from sts_cli.scenes.drawing import draw

VALIDATION_SEED = 900_000_000  # training uses other seeds
WINDOW = (12, 16)  # rows and columns of patches that the tower sees at first
SHOWN = 128, 32  # visual tokens in the first language phase: a base, and more for each shape
MOST = 6  # shapes in a scene
LEARNED = 0.75  # accuracy on colours and shapes from which scenes get one more shape
MEMORY = 0.97  # decay per step of the running mean of accuracies
HINTS, ATTENTION, DENSE = 1.0, 0.2, 0.3  # weights of the other losses: places, attention, tower

Encoded = tuple[Tensor, Tensor, Things]  # a picture: features, patches with things, the things


@dataclass(frozen=True)
class Phase:
    """A part of training: its share of the time, its learning rates, and its kind of scenes."""

    name: str
    share: float
    tower: float  # learning rate
    language: float
    level: tuple[float, float]  # share of hard scenes at the start, and after two thirds
    dense: float
    reuse: float


PHASES = (
    # The tower learns letters last, and hard scenes make it slower, so hard scenes come late.
    Phase("windows", 0.34, 3e-3, 0.0, (0.0, 0.45), 0.85, 4),
    Phase("whole", 0.08, 1.5e-3, 0.0, (0.35, 0.5), 0.5, 3),
    Phase("words", 0.38, 0.0, 3e-3, (0.1, 0.4), 0.0, 2),
    Phase("full", 0.11, 0.0, 2e-3, (0.4, 0.5), 0.0, 2),
    Phase("joint", 0.09, 3e-4, 1e-3, (0.5, 0.5), 0.0, 2),
)
FURTHER = (  # for weights that were trained with PHASES
    Phase("full", 0.4, 0.0, 2e-3, (0.3, 0.5), 0.3, 2),
    Phase("joint", 0.6, 7e-4, 1.2e-3, (0.4, 0.5), 0.1, 2),
)


@dataclass(frozen=True)
class Settings:
    """The settings of a training run."""

    folder: Path
    minutes: float
    size: str = "small"
    device: str = "cpu"
    processes: int = 2
    workers: int = 1  # drawing processes for each training process
    seed: int = 1
    weights: Path | None = None  # a checkpoint to start from, if the folder has no state


class Run:
    """One process of a training run."""

    def __init__(self, settings: Settings, rank: int):
        self.settings, self.rank = settings, rank
        self.further = settings.weights is not None
        self.device = torch.device(settings.device)
        self.gpu = self.device.type == "cuda"
        self.rng = random.Random(1000 * settings.seed + rank)
        self.tokens = build.tokenizer()
        self.model = build.model(build.SIZES[settings.size], self.tokens, settings.seed)
        self.vision: Any = build.tower_of(self.model)
        width = build.SIZES[settings.size].width
        self.readout = forward.Readout(width, sum(HEADS.values()))
        self.pointer = forward.Readout(width, 2 + CELLS * CELLS)  # predicts places
        self.packer = losses.Packer(self.tokens, 320)
        self.most, self.skill = 1, {"color": 0.0, "shape": 0.0}
        self.prefix = torch.tensor(self.packer.prefix, device=self.device)
        self.tower = torch.compile(forward.tower, dynamic=False)
        self.started = time.monotonic()
        self.stream = Stream(
            100_000_000 * settings.seed + 10_000_000 * rank, settings.workers, Difficulty()
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        return FURTHER if self.further else PHASES

    def train(self) -> None:
        """Train all phases, from the folder's last state if there is one."""
        state = self.load()
        if state is None:
            pixels = np.concatenate([self.stream.take().pixels for _ in range(48)])
            build.whiten(self.vision, torch.tensor(pixels).float() / 127.5 - 1)
            state = {"phase": 0, "elapsed": 0.0, "optimizer": None}
        self.model.to(self.device, torch.bfloat16).train()
        self.readout.to(self.device, torch.bfloat16)
        self.pointer.to(self.device, torch.bfloat16)
        self.alike()
        if self.further and (state["phase"], state["elapsed"]) == (0, 0.0):
            self.acquaint()
        for number in range(state["phase"], len(self.phases)):
            self.phase(number, state["elapsed"], state["optimizer"])
            state = {"elapsed": 0.0, "optimizer": None}
        self.stream.close()

    def alike(self) -> None:
        """Give every process the weights of process 0."""
        if torch.distributed.is_initialized():
            for weight in self.weights():
                torch.distributed.broadcast(weight.data, 0)

    def weights(self) -> Iterator[Tensor]:
        for part in (self.model, self.readout, self.pointer):
            yield from part.parameters()

    def phase(self, number: int, elapsed: float, optimizer_state: Any) -> None:
        """Train one phase for the rest of its time."""
        phase = self.phases[number]
        budget = phase.share * self.settings.minutes * 60
        tower = [*self.vision.named_parameters(), *self.readout.named_parameters()]
        rest = [
            (name, weight)
            for name, weight in (*self.model.named_parameters(), *self.pointer.named_parameters())
            if "vision_tower" not in name
        ]
        for _, weight in tower:
            weight.requires_grad_(phase.tower > 0)
        for _, weight in rest:
            weight.requires_grad_(phase.language > 0)
        groups = [(phase.tower, tower)] if phase.tower else []
        groups += [(phase.language, rest)] if phase.language else []
        frozen = phase.name in ("words", "full")
        ring: Ring[Any] = Ring(
            self.stream, self.encoded if frozen else list, 512 if frozen else 384, phase.reuse
        )
        if phase.name == "words" and elapsed == 0:
            drawn = [ring.sample(8, self.rng) for _ in range(6)]
            features = torch.cat([rows for batch in drawn for rows, _, _ in batch]).float().cpu()
            build.whiten_projector(self.model.model.multi_modal_projector, features)
            self.alike()
        optimizer = Optimizer(groups)
        if optimizer_state is not None:
            optimizer.load(optimizer_state)
        begun, saved, validated, step = time.monotonic() - elapsed, 0.0, 0.0, 0
        recent: list[dict[str, float]] = []
        while True:
            spent = self.agreed(time.monotonic() - begun)
            done = spent / budget
            if done >= 1:
                break
            self.stream.set(self.difficulty(phase, done))
            if phase.language:
                loss, measured = self.language_loss(ring, phase, self.shown(phase))
            else:
                loss, measured = self.tower_loss(ring, whole=phase.name == "whole")
            loss.backward()
            norm = optimizer.step(schedule(done))
            step += 1
            if phase.name == "words":
                self.learned(measured)
                measured["shapes"] = self.most
            recent.append(measured | {"loss": float(loss.detach()), "norm": norm})
            if self.rank == 0 and step % 25 == 0:
                self.log(phase, step, spent, ring, recent)
                recent = []
            if self.rank == 0 and spent - saved > 240:
                self.save(number, spent, optimizer)
                saved = spent
            if self.rank == 0 and spent - validated > 240:
                measured = self.validate() if phase.language else self.validate_tower()
                self.note({"phase": phase.name, "validation": measured})
                validated = spent
        if self.rank == 0:
            self.save(number + 1, 0.0, None)

    def acquaint(self, steps: int = 80) -> None:
        """Train only the new heads at first: untrained heads would damage trained weights."""
        heads = [*self.readout.named_parameters(), *self.pointer.named_parameters()]
        optimizer = Optimizer([(5e-3, heads)])
        ring: Ring[Example] = Ring(self.stream, list, 384, 2)
        for step in range(steps):
            drawn = ring.sample(4, self.rng)
            with torch.no_grad():
                features = torch.stack([rows for rows, _, _ in self.encoded(drawn)])
                things, where = [item.things for item in drawn], self.everywhere(len(drawn))
                packed, _, _, half = self.ask(things, features, where, losses.later, self.rng)
            known = self.known(drawn)
            lost = losses.dense(self.readout(features), known, known[..., 9] > 0)[0]
            (lost + self.hinted(half, packed)).backward()
            optimizer.step(1 - step / steps)

    def shown(self, phase: Phase) -> int:
        """The number of visual tokens in a language phase: those of things, and some background."""
        return SHOWN[0] + SHOWN[1] * self.most if phase.name == "words" else GRID * GRID

    def difficulty(self, phase: Phase, done: float) -> Difficulty:
        low, high = phase.level
        level = low + (high - low) * min(1.0, 1.5 * done)
        most = self.most if phase.name == "words" else MOST
        return Difficulty(level, most, phase.dense)

    def learned(self, accuracies: dict[str, float]) -> None:
        """Allow one more shape in a scene when colours and shapes are learned."""
        for kind in self.skill:
            if kind in accuracies:
                self.skill[kind] = MEMORY * self.skill[kind] + (1 - MEMORY) * accuracies[kind]
        if self.most < MOST and min(self.skill.values()) > LEARNED:
            self.most += 1
            self.skill = dict.fromkeys(self.skill, LEARNED - 0.2)

    def tower_loss(self, ring: Ring[Example], whole: bool) -> tuple[Tensor, dict[str, float]]:
        """The loss and accuracies of dense labels, on windows of patches or on whole pictures."""
        count = 64 if self.gpu else 3 if whole else 12
        examples = ring.sample(count, self.rng)
        pixels = torch.from_numpy(np.stack([item.pixels for item in examples])).to(self.device)
        labels = torch.from_numpy(np.stack([item.labels for item in examples])).to(self.device)
        where = None
        if not whole:
            where = torch.stack([self.window(example) for example in examples]).to(self.device)
            pixels = pixels.gather(1, where[..., None].expand(-1, -1, pixels.shape[-1]))
            parts = labels.gather(1, where[..., None].expand(-1, -1, labels.shape[-1]))
        else:
            parts = labels
        inside = complete(labels[..., 9], parts[..., 9])
        features = self.tower(self.vision, scaled(pixels), where)
        return losses.dense(self.readout(features), parts.long(), inside)

    def window(self, example: Example) -> Tensor:
        """Numbers [192] of the patches in a window, often the one of four with most letters."""
        rows, columns = WINDOW
        letters = (example.labels[:, 2] > 0).reshape(GRID, GRID)
        corners = [
            (self.rng.randint(0, GRID - rows), self.rng.randint(0, GRID - columns))
            for _ in range(self.rng.choice((1, 4, 4)))
        ]
        top, left = max(
            corners, key=lambda at: letters[at[0] : at[0] + rows, at[1] : at[1] + columns].sum()
        )
        row = torch.arange(top, top + rows)[:, None] * GRID
        return (row + torch.arange(left, left + columns)).flatten()

    def encoded(self, examples: list[Example]) -> list[Encoded]:
        return encoded(self.vision, examples, self.device)

    def language_loss(
        self, ring: Ring[Any], phase: Phase, visual: int
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss and figures of answers to up to 16 questions about each of a few pictures."""
        count = 64 if self.gpu else 4
        drawn = ring.sample(count, self.rng)
        dense_loss = torch.zeros((), device=self.device)
        if phase.tower:
            pixels = torch.from_numpy(np.stack([item.pixels for item in drawn])).to(self.device)
            known = self.known(drawn)
            features = self.tower(self.vision, scaled(pixels))
            dense_loss = DENSE * losses.dense(self.readout(features), known, known[..., 9] > 0)[0]
            things = [item.things for item in drawn]
            where = self.everywhere(count)
        else:
            things = [item[2] for item in drawn]
            where = torch.stack([some(item[1], visual) for item in drawn]).to(self.device)
            features = torch.stack([item[0] for item in drawn])
            features = features.gather(1, where[..., None].expand(-1, -1, features.shape[-1]))
        often = losses.early if phase.name == "words" and self.most == 1 else losses.later
        packed, kinds, logits, half = self.ask(things, features, where, often, self.rng)
        loss, right = losses.answered(logits, packed)
        hint, look = self.hinted(half, packed), losses.looked(half, packed, where)
        parts = {"answers_loss": loss, "hints_loss": hint, "looks_loss": look}
        measured = {name: float(part.detach()) for name, part in parts.items()}
        return loss + dense_loss + HINTS * hint + ATTENTION * look, by_kind(kinds, right) | measured

    def known(self, examples: list[Example]) -> Tensor:
        """Dense labels [B, 576, 10] of whole pictures."""
        return torch.from_numpy(np.stack([item.labels for item in examples])).to(self.device).long()

    def everywhere(self, count: int) -> Tensor:
        """Numbers [count, 576] of all patches."""
        return torch.arange(GRID * GRID, device=self.device).expand(count, -1)

    def ask(
        self,
        things: list[Things],
        features: Tensor,
        where: Tensor,
        often: losses.Often,
        rng: random.Random,
    ) -> tuple[dict[str, Tensor], list[str], Tensor, forward.Half]:
        """Random questions about pictures, their kinds, and the results of `forward.answers`."""
        packed, kinds = self.packer.pack(things, rng, often)
        packed = {name: value.to(self.device) for name, value in packed.items()}
        logits, half = forward.answers(self.model, features, where, packed, self.prefix)
        return packed, kinds, logits, half

    def hinted(self, half: forward.Half, packed: dict[str, Tensor]) -> Tensor:
        """The loss of the places that the pointer predicts."""
        asked = half.hidden[:, -packed["ids"].shape[1] :]
        point, cells = self.pointer(asked).split([2, CELLS * CELLS], dim=-1)
        return losses.pointed(point, cells, packed)

    @torch.no_grad()
    def validate_tower(self, scenes: int = 16) -> dict[str, float]:
        """Accuracies of dense labels on whole held-out scenes, easy and hard."""
        accuracies: dict[str, float] = {}
        for name, level in (("easy", 0.0), ("hard", 1.0)):
            rows = []
            for start in range(0, scenes, 8):
                drawn = [draw(VALIDATION_SEED + start + i, level) for i in range(8)]
                pixels = torch.from_numpy(np.stack([patches(scene.image) for scene in drawn]))
                known = torch.from_numpy(np.stack([labels(scene) for scene in drawn])).long()
                features = forward.tower(self.vision, scaled(pixels.to(self.device)))
                known = known.to(self.device)
                everywhere = known[..., 9] > 0
                rows.append(losses.dense(self.readout(features), known, everywhere)[1])
            accuracies |= {f"{name} {kind}": share for kind, share in mean(rows).items()}
        return accuracies

    @torch.no_grad()
    def validate(self, scenes: int = 32) -> dict[str, float]:
        """Exact match by kind on held-out scenes, half of them hard, with all 576 tokens."""
        rng = random.Random(0)
        accuracies: list[dict[str, float]] = []
        for start in range(0, scenes, 8):
            drawn = [draw(VALIDATION_SEED + start + i, 0.5) for i in range(8)]
            examples = [example(scene) for scene in drawn]
            features = torch.stack([rows for rows, _, _ in self.encoded(examples)])
            things, where = [item.things for item in examples], self.everywhere(len(examples))
            packed, kinds, logits, _ = self.ask(things, features, where, losses.later, rng)
            accuracies.append(by_kind(kinds, losses.answered(logits, packed)[1]))
        return mean(accuracies)

    def agreed(self, seconds: float) -> float:
        """The seconds of process 0, so that all processes end a phase at the same step."""
        if not torch.distributed.is_initialized():
            return seconds
        clock = torch.tensor([seconds])
        torch.distributed.broadcast(clock, 0)
        return float(clock)

    def log(
        self, phase: Phase, step: int, spent: float, ring: Ring[Any], recent: list[dict[str, float]]
    ) -> None:
        row = {"phase": phase.name, "step": step, "seconds": round(spent), "drawn": ring.drawn}
        self.note(row | mean(recent))

    def note(self, row: dict[str, Any]) -> None:
        minute = (time.monotonic() - self.started) / 60
        with (self.settings.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"minute": round(minute, 2), **row}) + "\n")

    def save(self, phase: int, elapsed: float, optimizer: Optimizer | None) -> None:
        state = {
            "phase": phase,
            "elapsed": elapsed,
            "optimizer": optimizer.state() if optimizer else None,
            "further": self.further,
            "most": self.most,
            "skill": self.skill,
            "model": self.model.state_dict(),
            "readout": self.readout.state_dict(),
            "pointer": self.pointer.state_dict(),
        }
        path = self.settings.folder / "state.pt"
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def load(self) -> dict[str, Any] | None:
        path = self.settings.folder / "state.pt"
        if not path.exists():
            return self.begun()
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.readout.load_state_dict(state["readout"])
        self.pointer.load_state_dict(state["pointer"])
        self.further = state["further"]
        self.most, self.skill = state["most"], state["skill"]
        return state

    def begun(self) -> dict[str, Any] | None:
        """Load the checkpoint `settings.weights`; returns the first state, or None without one."""
        if self.settings.weights is None:
            return None
        trained = type(self.model).from_pretrained(self.settings.weights, dtype=torch.float32)
        self.model.load_state_dict(trained.state_dict())
        return {"phase": 0, "elapsed": 0.0, "optimizer": None}


@torch.no_grad()
def encoded(vision: Any, examples: list[Example], device: torch.device) -> list[Encoded]:
    """For each picture its features, a mask of the patches with things, and the things."""
    pixels = torch.from_numpy(np.stack([item.pixels for item in examples])).to(device)
    features = forward.tower(vision, scaled(pixels))
    shows = [torch.from_numpy(item.labels[:, 0] > 0) for item in examples]
    return [
        (rows, mask, item.things)
        for rows, mask, item in zip(features, shows, examples, strict=True)
    ]


def scaled(pixels: Tensor) -> Tensor:
    """Pixel bytes scaled to -1..1, as by the processor."""
    return (pixels.float() / 127.5 - 1).bfloat16()


def complete(everywhere: Tensor, here: Tensor) -> Tensor:
    """True [B, N] for patches whose thing has all its patches among the N.

    `everywhere` [B, 576] and `here` [B, N] are the number of the thing at each patch; 0 is
    background.
    """
    most = int(everywhere.max()) + 1
    total = torch.nn.functional.one_hot(everywhere.long(), most).sum(1)  # [B, things]
    seen = torch.nn.functional.one_hot(here.long(), most).sum(1)
    return (total == seen).gather(1, here.long()) & (here > 0)


def some(thing: Tensor, count: int) -> Tensor:
    """`count` sorted patch numbers: random ones that show a thing, then random background."""
    if count == len(thing):
        return torch.arange(count)
    order = torch.rand(len(thing)) + thing.float()
    return order.topk(count).indices.sort().values


def by_kind(kinds: list[str], right: Tensor) -> dict[str, float]:
    outcomes: dict[str, list[bool]] = {}
    for kind, correct in zip(kinds, right.tolist(), strict=True):
        outcomes.setdefault(kind, []).append(correct)
    return {kind: sum(marks) / len(marks) for kind, marks in outcomes.items()}


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: round(float(np.mean([row[name] for row in rows if name in row])), 4) for name in names
    }


def worker(rank: int, settings: Settings) -> None:
    """Run one training process; gloo averages the gradients of several."""
    if settings.processes > 1:
        torch.set_num_threads(1)
        store = f"file://{settings.folder.absolute() / 'rendezvous'}"
        torch.distributed.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=settings.processes
        )
    Run(settings, rank).train()


def train(settings: Settings) -> None:
    """Run all training processes until the time budget ends."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    (settings.folder / "rendezvous").unlink(missing_ok=True)
    if settings.processes == 1:
        worker(0, settings)
    else:
        torch.multiprocessing.spawn(worker, (settings,), settings.processes)
