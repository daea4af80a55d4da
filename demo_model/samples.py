"""The pictures and questions in `samples/`, from seeds outside training.

They were not chosen by the answers of the model.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sts_cli.scenes.drawing import Scene, draw
from sts_cli.scenes.questions import ask


@dataclass(frozen=True)
class Sample:
    """A picture's file, the scene it shows, its size in pixels, and the kinds of its questions."""

    file: str
    seed: int
    level: float
    size: tuple[int, int]
    kinds: tuple[str, ...]


SAMPLES = (
    Sample("sign.png", 920_000_019, 0.0, (336, 336), ("text", "sign_color")),
    Sample("shapes.png", 920_000_492, 1.0, (448, 336), ("count", "shape")),
    Sample("two-signs.jpg", 920_000_523, 1.0, (640, 360), ("text", "text_color")),
    Sample("crowded.jpg", 920_000_570, 1.0, (800, 600), ("relation", "exist", "place")),
    Sample("number.png", 920_000_647, 1.0, (256, 256), ("text", "color")),
    Sample("letters.png", 920_000_769, 1.0, (360, 480), ("text", "place")),
    Sample("wide.jpg", 920_000_852, 1.0, (960, 540), ("relation", "sign_color", "caption")),
    Sample("single.png", 920_000_926, 1.0, (128, 128), ("color", "caption")),
    Sample("busy.jpg", 920_001_451, 1.0, (1280, 720), ("exist", "count", "relation")),
    Sample("plain.png", 920_001_455, 0.0, (336, 336), ("shape", "text_color", "caption")),
)


def write(folder: Path) -> int:
    """Write all samples and their `questions.jsonl` to `folder`; returns the number of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for sample in SAMPLES:
        scene = draw(sample.seed, sample.level)
        image = scene.image.resize(sample.size, Image.Resampling.LANCZOS)
        image.save(folder / sample.file, quality=85, optimize=True)
        rows += [row(sample, scene, kind) for kind in sample.kinds]
    lines = [json.dumps(entry) + "\n" for entry in rows]
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(rows)


def row(sample: Sample, scene: Scene, kind: str) -> dict[str, str]:
    """A question of this kind with its answer; the first sample has the README's question."""
    rng = random.Random(sample.seed)
    asked = None
    while asked is None:
        asked = ask(kind, scene, rng)
    question = asked.question
    if kind == "text" and sample == SAMPLES[0]:
        question = "what is on the sign?"
    return {
        "id": f"{Path(sample.file).stem}-{kind.replace('_', '-')}",
        "image": sample.file,
        "question": question,
        "answer": asked.answer,
    }
