"""Readings of 1,000 rows by sts batch, with a model that answers at once: -m benchmarks.parses"""

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from PIL import Image
from typer.testing import CliRunner

from sts_cli.__main__ import app
from sts_cli.inputs import jsonl, table
from sts_cli.records import Answer, Seconds, TokenCounts

ROWS = {
    "q.jsonl": "".join(f'{{"id": {n}, "image": "a.png", "question": "?"}}\n' for n in range(1000)),
    "q.csv": "id,image,question\n" + "".join(f"{n},a.png,?\n" for n in range(1000)),
}
RUNS = {"half": ["--limit", "500"], "resumed": [], "finished": [], "fresh": ["--fresh"]}
MEASURED = ("yes", TokenCounts(1, (), 1.0, 1, 1), Seconds(*[1.0] * 7))
VLM = SimpleNamespace(
    precision="float32, none",
    answers=lambda ready, *_, **__: (Answer(row.item, "demo", "off", *MEASURED) for row in ready),
)

os.environ["FORCE_COLOR"] = "1"  # a terminal, on which rows are counted
os.chdir(tempfile.mkdtemp())
Image.new("RGB", (8, 8)).save("a.png")
opened: list[str] = []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
patch("sts_cli.cli.batch.load_for", lambda *_: VLM).start()
for name, parser in {"q.jsonl": (jsonl, "read_line"), "q.csv": (table, "cells_at")}.items():
    Path(name).write_text(ROWS[name])
    for run, options in RUNS.items():
        opened.clear()
        with patch.object(*parser, wraps=getattr(*parser)) as parse:
            CliRunner().invoke(app, ["batch", name, "-o", f"{name}.out.csv", *options])
        print(f"{name:8} {run:9} parsed {parse.call_count:4}, opened {opened.count(name)}")
