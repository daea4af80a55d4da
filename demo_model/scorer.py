"""Training of LearnPruner's scorer: what a whole answer looks at, from a token's features alone.

What the paper trains on is not public, so this is our choice: for scenes of the training seeds, the
attention that the words of some questions and the right answers pay to each token, over all layers
and heads of the model itself, which stays as it is. Each question counts alike. The scorer learns
the mean over a scene's questions, as a distribution over the scene's tokens.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sts_cli.checkpoints.fingerprint import weights_digest
from sts_cli.checkpoints.sources import find
from sts_cli.engine.engine import Engine
from sts_cli.engine.importance import importance
from sts_cli.families.default import Prompt
from sts_cli.loading.model import load
from sts_cli.pruning import learnpruner
from sts_cli.scenes.drawing import draw
from sts_cli.scenes.questions import questions

FIRST = 1  # seed of the first scene; the demo model was trained on such, too
ASKED = 4  # questions about each scene
LEVEL = 0.5  # share of hard scenes
STEPS, SCENES_A_STEP, RATE = 500, 8, 2e-3


@dataclass(frozen=True)
class Scored:
    """Scenes whose tokens are known with what answers look at."""

    features: Tensor  # [S, N, D]
    wanted: Tensor  # [S, N]; sums to 1 over a scene's tokens


def train(model: str, to: Path, scenes: int, hidden: int, say: Callable[[str], None]) -> None:
    """Write the scorer of `model` with `hidden` values inside, after looking at `scenes`.

    All images must have as many tokens as the first.
    """
    source = find(model)
    started = time.monotonic()
    loaded = load(source, device="cpu", dtype="float32")
    assert loaded.checkpoint is not None
    data = looked_at(Engine(loaded), scenes, say)
    say(f"{scenes} scenes in {time.monotonic() - started:.0f} s")
    weights = fitted(data, hidden, say)
    told = {
        "method": learnpruner.METHOD,
        "width": str(data.features.shape[-1]),
        "model": source.name,
        "weights": weights_digest(loaded.checkpoint),
    }
    save_file({name: values.half().contiguous() for name, values in weights.items()}, to, told)
    say(f"{to}: {to.stat().st_size / 1000:.0f} kB; {time.monotonic() - started:.0f} s in all")


def looked_at(engine: Engine, scenes: int, say: Callable[[str], None]) -> Scored:
    """What answers look at in `scenes` scenes, from FIRST on."""
    features, wanted = [], []
    for seed in range(FIRST, FIRST + scenes):
        scene, rng = draw(seed, LEVEL), random.Random(seed)
        asked = list(questions(scene, rng))
        asked = rng.sample(asked, min(ASKED, len(asked)))
        pixels = engine.family.pixels(scene.image)
        (image,), _ = engine.encode([pixels])
        ids = [engine.family.tokenize(one.question, [pixels]) for one in asked]
        answers = [
            engine.family.tokenizer(one.answer, add_special_tokens=False)["input_ids"]
            for one in asked
        ]
        prompts = [Prompt(row, (image,)) for row in ids]
        paid = torch.stack([one for (one,) in importance(engine.family, prompts, answers)])
        features.append(image.features)
        wanted.append((paid / paid.sum(1, keepdim=True)).mean(0))
        if len(features) % 50 == 0:
            say(f"{len(features)} of {scenes} scenes")
    return Scored(torch.stack(features), torch.stack(wanted))


def fitted(data: Scored, hidden: int, say: Callable[[str], None], steps: int = STEPS) -> dict:
    """The weights of a scorer, as `learnpruner.rated` takes them, after `steps` steps of AdamW."""
    torch.manual_seed(0)
    count, _, width = data.features.shape
    weights = {
        learnpruner.NORM: torch.ones(width),
        learnpruner.BIAS: torch.zeros(width),
        learnpruner.HIDDEN: torch.randn(hidden, width) / width**0.5,
        learnpruner.INNER: torch.zeros(hidden),
        learnpruner.SCORE: 0.1 * torch.randn(1, hidden) / hidden**0.5,
    }
    for values in weights.values():
        values.requires_grad_()
    optimizer = torch.optim.AdamW(weights.values(), RATE, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        some = torch.randint(count, (SCENES_A_STEP,))
        scores = learnpruner.rated(data.features[some].flatten(0, 1), weights)
        logs = scores.view(SCENES_A_STEP, -1).log_softmax(-1)
        loss = -(data.wanted[some] * logs).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if step % 100 == 0 or step == steps - 1:
            say(f"step {step}: cross-entropy {loss.item():.3f}")
    return {name: values.detach() for name, values in weights.items()}
