"""Runs that end early, as they do at night: real processes, real signals, real pipes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from running import COMMAND, process, read_rows, start, sts, without_times

ROWS = 24


@pytest.fixture
def place(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with questions, where `sts` finds a small model."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        Image.new("RGB", (50, 40), (60 * number, 128, 0)).save(f"{number}.png")
    rows = [{"image": f"{n % 4}.png", "question": f"what is {n}?"} for n in range(ROWS)]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


ASKED = ("batch", "q.jsonl", "--max-new-tokens", "2", "--batch-size", "2")


def wait_for(told: Callable[[], str], count: int) -> None:
    """Until the process has told of so many items."""
    for _ in range(count):
        assert told(), "the run ended before it could be interrupted"


def same_as_undisturbed(out: Path) -> None:
    whole = sts(*ASKED, "--out", "whole.jsonl")
    assert whole.code == 0
    assert without_times(read_rows(out)) == without_times(read_rows(Path("whole.jsonl")))


def test_one_signal_finishes_the_batch_in_hand(place: Path):
    with start(*ASKED, "--out", "a.jsonl") as run:
        assert run.stderr is not None
        wait_for(run.stderr.readline, 3)
        run.send_signal(signal.SIGTERM)
        told = run.stderr.read()
        assert run.wait() == 130
    assert "Finishing the current batch" in told
    assert "Wrote a.jsonl, not all of it.\nStopped; run the same command again to continue." in told
    answered = len(read_rows(place / "a.jsonl"))
    assert f"{answered} answered" in told and 3 <= answered < ROWS
    assert sts(*ASKED, "--out", "a.jsonl").code == 0
    same_as_undisturbed(place / "a.jsonl")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_standard_input_is_silent_ends_the_run_in_order(number: int, place: Path):
    asked = ["batch", "-", "--max-new-tokens", "2", "--backend", "torch"]
    with start(*asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin is not None and run.stdout is not None and run.stderr is not None
        run.stdin.write(Path("q.jsonl").read_text().partition("\n")[0] + "\n")
        run.stdin.flush()
        assert json.loads(run.stdout.readline())["id"] == "1"
        run.send_signal(number)
        told = run.stderr.read()  # standard input is open all the while
        assert run.wait() == 130
    assert "1 answered" in told and "Fatal" not in told


def test_a_closed_standard_input_is_one_sentence(place: Path):
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *COMMAND, "batch", "-"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("sts: '-' reads JSON lines from stdin")


def test_killed_again_and_again_no_row_is_lost_or_doubled(place: Path):
    for count in (1, 9):
        with start(*ASKED, "--out", "a.jsonl") as run:
            assert run.stderr is not None
            wait_for(run.stderr.readline, count)
            run.kill()
    before = (place / "a.jsonl").read_bytes()
    assert before.count(b"\n") >= 10
    assert sts(*ASKED, "--out", "a.jsonl").code == 0
    same_as_undisturbed(place / "a.jsonl")


def test_a_second_signal_stops_at_once_and_keeps_what_was_answered(place: Path):
    with start(*ASKED, "--out", "a.jsonl", "--max-new-tokens", "100") as run:
        assert run.stderr is not None
        wait_for(run.stderr.readline, 2)
        run.send_signal(signal.SIGINT)
        assert any("Finishing" in line for line in iter(run.stderr.readline, ""))
        run.send_signal(signal.SIGINT)
        assert run.wait() == 130
    assert len(read_rows(place / "a.jsonl")) >= 2


def test_a_closed_pipe_ends_quietly(place: Path):
    with subprocess.Popen(
        [*COMMAND, *ASKED, "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        assert json.loads(run.stdout.readline())["id"] == "1"
        run.stdout.close()
        assert run.stderr.read() == b""
        assert run.wait() == 141


@pytest.mark.parametrize(
    "asked",
    [
        "ask 0.png --quiet",
        "ask 0.png --quiet --json",
        "batch q.jsonl --dry-run",
        "eval q.jsonl --quiet --json",
        "models",
        "profiles",
        "profiles show balanced",
        "doctor",
    ],
)
def test_what_nobody_reads_ends_quietly_too(asked: str, place: Path):
    """As of `sts ask 0.png | head -1`, where head has read its line and gone."""
    ordinary = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [*COMMAND, *asked.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ordinary
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b""
        assert run.wait() == 141


@pytest.mark.parametrize(
    "asked",
    [
        "--help",
        "--version",
        "ask 0.png --quiet",
        "ask 0.png --quiet --json",
        "batch q.jsonl --quiet --limit 2",
        "batch q.jsonl --dry-run --limit 2",
        "batch --help",
        "eval q.jsonl --quiet --json --limit 2 --profiles off",
        "models",
        "models --json",
        "profiles",
        "profiles show balanced",
        "doctor",
    ],
)
def test_a_full_disk_behind_standard_output_is_one_sentence(asked: str, place: Path):
    ordinary = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *asked.split()], stdout=full, stderr=subprocess.PIPE, env=ordinary, text=True
        )
    assert done.returncode == 1
    *summary, told = done.stderr.splitlines()
    assert told == "sts: Cannot write standard output: the disk is full."
    assert not any("Traceback" in line or "Error" in line for line in summary)


def test_a_closed_standard_output_is_nowhere(place: Path):
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *COMMAND, *ASKED, "--out", "a.jsonl", "--limit", "3", "-q"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(read_rows(place / "a.jsonl")) == 3


def test_two_processes_on_one_file_do_not_mix(place: Path):
    with start(*ASKED, "--out", "a.jsonl") as run:
        assert run.stderr is not None
        wait_for(run.stderr.readline, 1)
        run.send_signal(signal.SIGSTOP)  # it must not end before the second has looked
        second = sts(*ASKED, "--out", "a.jsonl")
        run.send_signal(signal.SIGCONT)
        assert second.code == 2 and "Another run is writing a.jsonl" in second.err
        run.stderr.read()
        assert run.wait() == 0
    same_as_undisturbed(place / "a.jsonl")


def on_terminal(*arguments: str) -> str:
    """What `sts` draws on a terminal of 80 columns."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=slave, env=environment
    ) as run:
        os.close(slave)
        drawn = b""
        with contextlib.suppress(OSError):  # Linux ends a pty with an error
            while select.select([master], [], [], 120)[0] and (part := os.read(master, 1 << 16)):
                drawn += part
        assert run.wait() == 0
    os.close(master)
    return drawn.decode()


def test_a_terminal_gets_a_bar_with_rate_and_time_left(place: Path):
    drawn = on_terminal(*ASKED, "--out", "a.jsonl")
    assert f"{ROWS}/{ROWS}" in drawn and "/s" in drawn and "\x1b[" in drawn
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).replace("\r", "\n").split("\n")
    assert max(len(line) for line in lines) <= 80


def test_anything_else_gets_no_bar_and_no_colour(place: Path):
    done = process(*ASKED, "--out", "a.jsonl")
    assert done.returncode == 0
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    assert len(done.stderr.splitlines()) == ROWS + 3  # the summary, and that the file is written
    assert done.stdout == ""


def test_answers_of_a_pipe_come_out_while_it_is_open(place: Path):
    """A program may ask, read the answer, and ask again."""
    lines = Path("q.jsonl").read_text().splitlines(keepends=True)
    with subprocess.Popen(
        [sys.executable, "-m", "sts_cli", "batch", "-", "-q", "--max-new-tokens", "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdin is not None and run.stdout is not None
        for number in range(3):
            run.stdin.write(lines[number])
            run.stdin.flush()
            assert json.loads(run.stdout.readline())["id"] == str(number + 1)
        run.stdin.close()
        assert run.wait() == 0
