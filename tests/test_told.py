"""What a run tells, and where: lines for people, rows for programs, JSON for logs."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image
from running import COMMAND, no_waiting_for_the_disk, on_terminal, read_rows, sts, without_times

__all__ = ["no_waiting_for_the_disk"]

ROWS = 6
ASKED = ("batch", "q.jsonl", "--max-new-tokens", "2", "--batch-size", "1")
STARTS = "Relative names of images start in "


@pytest.fixture
def place(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with questions, of which the third has no image."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        Image.new("RGB", (50, 40), (60 * number, 128, 0)).save(f"{number}.png")
    names = ["0.png", "1.png", "gone.png", "0.png", "1.png", "0.png"]
    rows = [{"image": name, "question": f"what is {n}?"} for n, name in enumerate(names)]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    return tmp_path


def drawn(*arguments: object) -> list[str]:
    """The lines that a terminal of 80 columns shows, without colours."""
    text = on_terminal(*arguments).out
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")


def test_a_terminal_gets_a_line_for_each_row_and_a_pipe_the_rows(place: Path):
    lines = drawn(*ASKED)
    shown = [
        line for line in lines if re.match(r"\d  64 -> 16 -> 13  \d+ ms|x 3  image_missing", line)
    ]
    assert [re.findall(r"\d", line)[0] for line in shown] == [str(n + 1) for n in range(ROWS)]
    assert not any("{" in line for line in lines)
    assert max(len(line) for line in lines if not line.startswith(STARTS)) <= 80
    assert len(sts(*ASKED).rows) == ROWS


def test_a_quiet_terminal_gets_these_lines_and_nothing_else(place: Path):
    lines = [line for line in drawn(*ASKED, "--quiet") if line]
    assert len(lines) == ROWS and lines[2] == "x 3  image_missing: No image gone.png."


def test_a_terminal_gets_the_format_that_was_asked_for(place: Path):
    rows = [line for line in drawn(*ASKED, "--quiet", "--format", "llava") if line]
    assert len("".join(rows).split('{"question_id"')) == ROWS + 1


def test_lines_go_where_the_rows_would(place: Path):
    """A terminal for standard output alone: `sts batch q.jsonl 2> log`."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        [*COMMAND, *ASKED], stdout=slave, stderr=subprocess.PIPE, env=environment, text=True
    ) as run:
        os.close(slave)
        drawn = b""
        with contextlib.suppress(OSError):  # Linux ends a terminal with an error
            while part := os.read(master, 1 << 16):
                drawn += part
        assert run.stderr is not None
        log = run.stderr.read()
        assert run.wait() == 1
    os.close(master)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode()).splitlines()
    assert len(lines) == ROWS and lines[2] == "x 3  image_missing: No image gone.png."
    assert log.startswith("5 answered; 1 with errors") and "\x1b" not in log


def test_no_progress_is_notes_and_the_summary(place: Path):
    done = sts(*ASKED, "--out", "a.jsonl", "--progress", "none")
    assert done.code == 1
    assert [line.split(";")[0] for line in done.err.splitlines()] == [
        "5 answered",
        done.err.splitlines()[1].split(";")[0],
        f"{STARTS}{place}",
        "Wrote a.jsonl.",
    ]
    assert "answering" not in "".join(drawn(*ASKED, "--progress", "none"))
    assert "answering" not in "".join(drawn(*ASKED, "--progress", "lines"))
    assert "answering" in "".join(drawn(*ASKED))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--progress", "bar", "--progress bar needs a terminal on standard error; give lines."),
        ("--progress", "line", "Did you mean 'lines'?"),
        ("--on-error", "halt", "Known: continue, stop."),
    ],
)
def test_what_cannot_be_shown_is_refused(option: str, value: str, message: str, place: Path):
    done = sts(*ASKED, option, value)
    assert (done.code, done.out) == (2, "") and message in done.err


def test_every_output_is_announced(place: Path):
    outputs = ("--out", "a.jsonl", "--html", "page.html", "--overlay", "kept")
    done = sts(*ASKED, *outputs)
    told = [line for line in done.err.splitlines() if line.startswith("Wrote")]
    assert told == ["Wrote a.jsonl.", "Wrote 5 overlays in kept.", "Wrote page.html."]
    assert len(list(Path("kept").iterdir())) == 5
    assert "Wrote" not in sts(*ASKED, *outputs, "--fresh", "--quiet").err
    assert "Wrote a.jsonl" not in sts(*ASKED, *outputs[:2], "--fresh", "--limit", 1, "-q").err
    table = sts("eval", "good.jsonl", "-p", "off", "--out", "table.csv", "--max-new-tokens", "2")
    assert "Wrote table.csv." in table.err
    Path("pictures").mkdir()
    for name in ("0.png", "1.png"):
        Path(name).rename(Path("pictures", name))
    beside = sts("batch", "pictures", "--sidecar", "--max-new-tokens", "2")
    assert "Wrote 2 text files beside the images." in beside.err


def test_the_log_of_a_run_is_json(place: Path):
    done = sts(*ASKED, "--out", "a.jsonl", "--log-json")
    events = [json.loads(line) for line in done.err.splitlines()]
    assert all(isinstance(one["at"], float) for one in events)
    rows = [one for one in events if one["event"] == "row"]
    assert [one["id"] for one in rows] == [str(n + 1) for n in range(ROWS)]
    assert [one["error"] and one["error"]["kind"] for one in rows] == [
        *[None] * 2,
        "image_missing",
        *[None] * 3,
    ]
    (summary,) = (one for one in events if one["event"] == "summary")
    assert summary["answered"] == 5 and summary["errors"] == {"image_missing": 1}
    where, wrote = (one["text"] for one in events if one["event"] == "message")
    assert where.startswith(f"{STARTS}{place}; ") and wrote == "Wrote a.jsonl."
    assert len(sts(*ASKED, "--log-json").rows) == ROWS


def test_a_mistake_in_a_log_is_json_too(place: Path):
    done = sts("batch", "gone.jsonl", "--log-json")
    (event,) = map(json.loads, done.err.splitlines())
    assert (done.code, event["level"]) == (2, "error") and "gone.jsonl" in event["text"]


def test_the_form_of_the_questions_is_told_in_the_log_too(place: Path):
    row = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    content = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "0.png"}},
    ]
    row["body"] = {"messages": [{"role": "user", "content": content}]}  # type: ignore[assignment]
    Path("openai.jsonl").write_text(json.dumps(row) + "\n")
    done = sts("batch", "openai.jsonl", "--log-json", "--max-new-tokens", "1", "--limit", "1")
    first = json.loads(done.err.splitlines()[0])
    assert (first["event"], first["text"]) == ("message", "reading as OpenAI batch")


def test_a_terminal_with_a_log_still_gets_every_row(place: Path):
    lines = "".join(drawn(*ASKED, "--log-json"))
    assert len(re.findall(r'"answer": ', lines)) == ROWS


def test_a_run_can_stop_at_the_first_error_and_go_on_behind_it(place: Path):
    done = sts(*ASKED, "--out", "a.jsonl", "--on-error", "stop")
    assert done.code == 1 and "stopped at row 3: image_missing: No image gone.png." in done.err
    assert "--retry-errors" in done.err
    rows = read_rows(Path("a.jsonl"))
    assert 3 <= len(rows) < ROWS and rows[2]["error"]["kind"] == "image_missing"
    sts(*ASKED, "--out", "a.jsonl", "--on-error", "stop")
    sts(*ASKED, "--out", "whole.jsonl")
    found, whole = (read_rows(Path(name)) for name in ("a.jsonl", "whole.jsonl"))
    assert without_times(found) == without_times(whole)


@pytest.fixture
def demo(place: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file whose time says when the demo's note was last told."""
    monkeypatch.delenv("STS_MODEL")
    monkeypatch.setattr("sts_cli.checkpoints.sources.demo_folder", lambda: tiny_checkpoint)
    monkeypatch.setenv("STS_CACHE", str(place / "cache"))
    return place / "cache" / "demo-note"


NOTE = "demo model: it reads signs"


def test_the_demo_is_told_of_once_a_day_and_last(demo: Path):
    asked = ("ask", "0.png", "--max-new-tokens", "2")
    first = sts(*asked).err
    assert first.splitlines()[-1].startswith(NOTE) and demo.exists()
    assert NOTE not in sts(*asked).err
    assert NOTE not in sts("batch", "good.jsonl", "--max-new-tokens", "2").err
    yesterday = time.time() - 90_000
    os.utime(demo, (yesterday, yesterday))
    assert sts("batch", "good.jsonl", "--max-new-tokens", "2").err.count(NOTE) == 1


def test_the_demo_is_not_told_of_beside_an_error_or_to_the_quiet(demo: Path):
    for asked in (ASKED, ("ask", "gone.png"), ("ask", "0.png", "-q", "--max-new-tokens", "2")):
        assert NOTE not in sts(*asked).err
    assert not demo.exists()
