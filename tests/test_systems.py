"""What Windows, macOS and old locales have otherwise, as far as Linux can show it."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from elsewhere import elsewhere
from running import COMMAND, read_rows

from sts_cli.inputs.embedded import path_of
from sts_cli.inputs.jsonl import read_line
from sts_cli.inputs.picture import Picture, read_picture
from sts_cli.inputs.rows import Origin
from sts_cli.machine.files import same_file
from sts_cli.machine.hardware import memory_elsewhere
from sts_cli.machine.packages import to_install
from sts_cli.outputs.disk import Appender, reason
from sts_cli.outputs.overlays import safe
from sts_cli.outputs.sidecar import ambiguous
from sts_cli.records import Problem

SAMPLES = Path(__file__).parents[1] / "samples"
OLD = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # file names are ASCII


@pytest.mark.parametrize("words", [["--help"], ["docs"], ["profiles"], ["models"]], ids=" ".join)
def test_commands_answer_without_the_modules_of_unix(words: list[str]):
    done = elsewhere(*words)
    assert done.returncode == 0 and done.stdout and not done.stderr


def test_a_run_needs_nothing_of_unix_and_moves_no_open_file(tmp_path: Path):
    out, questions = tmp_path / "out.jsonl", SAMPLES / "questions.jsonl"
    for limit, more in ((2, []), (4, []), (3, ["--fresh", "--overlay", tmp_path / "kept"])):
        done = elsewhere("batch", questions, "--limit", limit, "--out", out, "--quiet", *more)
        assert done.returncode == 0, done.stderr
        assert len(read_rows(out)) == limit
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "kept",
        "out.jsonl",
        "out.jsonl.run",
    ]
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_without_flock_two_runs_on_one_file_are_told_apart(tmp_path: Path):
    lock = os.open(tmp_path / ".out.jsonl.sts-lock", os.O_RDWR | os.O_CREAT)
    os.lockf(lock, os.F_LOCK, 1)
    out = tmp_path / "out.jsonl"
    done = elsewhere("batch", SAMPLES / "questions.jsonl", "--limit", 1, "--out", out)
    os.close(lock)
    assert done.returncode == 2
    assert done.stderr == f"sts: Another run is writing {out} right now.\n"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("about: 中文 é 😀\nstructure: {method: grid, keep: 0.5}\n", "utf-8")
    return path


def test_data_in_a_pipe_is_utf8_whatever_the_locale(profile: Path):
    command = [*COMMAND, "profiles", "show", str(profile)]
    done = subprocess.run(command, env={**os.environ, **OLD}, capture_output=True)
    assert done.returncode == 0
    assert "about: 中文 é 😀" in done.stdout.decode("utf-8")


def test_what_a_code_page_lacks_becomes_an_escape(profile: Path):
    command = [*COMMAND, "profiles", "show", str(profile)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0
    assert r"about: \u4e2d\u6587 é \U0001f600" in done.stdout.decode("cp1252")


def test_a_terminal_of_ascii_shows_escapes(profile: Path):
    master, slave = pty.openpty()
    command = [*COMMAND, "profiles", "show", str(profile)]
    done = subprocess.run(command, env={**os.environ, **OLD}, stdout=slave, stderr=slave)
    shown = os.read(master, 1 << 16).decode("ascii")
    os.close(slave)
    os.close(master)
    assert done.returncode == 0 and r"about: \u4e2d\u6587" in shown


def test_a_name_that_the_locale_cannot_write_is_a_row_with_a_reason(tmp_path: Path):
    (tmp_path / "é.png").write_bytes((SAMPLES / "sign.png").read_bytes())
    code = (
        "from pathlib import Path; from sts_cli.inputs.picture import read_picture\n"
        "print(read_picture('\\xe9.png', Path('.')).message)"
    )
    environment = {**os.environ, **OLD, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert r"No image \xe9.png: the names of this system's files are ascii" in done.stdout
    assert "Set PYTHONUTF8=1" in done.stdout


def test_backslashes_of_a_question_file_from_windows_separate_folders(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes((SAMPLES / "sign.png").read_bytes())
    assert isinstance(read_picture("photos\\a.png", tmp_path), Picture)
    (tmp_path / "photos\\b.png").write_bytes((SAMPLES / "sign.png").read_bytes())
    assert isinstance(read_picture("photos\\b.png", tmp_path), Picture)  # its real name


@pytest.mark.parametrize("name", [r"C:\photos\a.png", "c:/photos/a.png"])
def test_a_drive_of_windows_is_told_on_other_systems(name: str, tmp_path: Path):
    problem = read_picture(name, tmp_path)
    assert isinstance(problem, Problem) and problem.kind == "image_missing"
    assert "That is a path of Windows" in problem.message


@pytest.mark.parametrize("name", [r"C:\photos\a.png", r"C:\users\a.png"])
def test_single_backslashes_in_json_are_told(name: str):
    line = f'{{"image": "{name}", "question": "?"}}'.encode()
    item = read_line(line, 1, Origin("q.jsonl", Path()))
    assert item.problem is not None
    assert r"In JSON a path of Windows has '/' or '\\' between" in item.problem.message


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///C:/my%20photos/a.png", "C:/my photos/a.png"),
        ("file://localhost/C:/a.png", "C:/a.png"),
        ("file://server/share/a%20b.png", "//server/share/a b.png"),
        ("file:///data/a.png", "/data/a.png"),
    ],
)
def test_file_addresses_on_windows(address: str, path: str):
    assert path_of(address, windows=True) == path


IDS = [
    "CON",
    "nul",
    "aux.jpg",
    "Com1",
    "lpt9.x.y",
    "prn",
    'a<b>c:d"e',
    "x/y\\z",
    "q?*|",
    "end.",
    "é",
]
DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10)),
}


@pytest.mark.parametrize("identity", IDS)
def test_file_names_made_from_ids_are_names_on_windows(identity: str):
    name = safe(identity) + ".jpg"
    assert not set(name) & set('<>:"/\\|?*') and min(map(ord, name)) >= 32
    assert name.partition(".")[0].upper() not in DEVICES


def test_such_names_stay_apart():
    assert len({safe(identity).lower() for identity in (*IDS, "_CON", "_nul")}) == len(IDS) + 2


def test_names_that_differ_by_the_composition_of_accents_share_a_sidecar():
    """macOS takes both for the same file."""
    names = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    assert len(set(names)) == 2
    assert ambiguous([f"{names[0]}.jpg", f"{names[1]}.png"]) == {names[0]}


def test_output_files_are_opened_without_translation_of_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Windows has a flag for that; here another one stands for it."""
    monkeypatch.setattr(os, "O_BINARY", os.O_NONBLOCK, raising=False)
    file = Appender(tmp_path / "out.jsonl", 0)
    flags = fcntl.fcntl(file._file, fcntl.F_GETFL)
    file.close()
    assert flags & os.O_NONBLOCK


class WindowsError_(PermissionError):
    """As Windows raises it: its own number beside the usual one."""

    winerror = 32


def test_a_file_that_another_program_has_open_is_told():
    error = WindowsError_(13, "The process cannot access the file")
    assert reason(error) == "another program has the file open; close it there"
    assert reason(PermissionError(13, "Permission denied")) == "you may not write there"


def test_memory_is_known_without_proc():
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    sizes = memory_elsewhere()
    assert sizes is not None and sizes[1] == total and 0 < sizes[0] < total


def test_a_file_is_the_same_under_all_of_its_names(tmp_path: Path):
    file, link, copy = (tmp_path / name for name in ("a", "link", "copy"))
    file.write_text("same")
    copy.write_text("same")
    os.link(file, link)
    assert same_file(file, tmp_path / ".." / tmp_path.name / "a") and same_file(link, file)
    assert not same_file(file, copy)
    assert not same_file(tmp_path / "gone", file) and not same_file(file, tmp_path / "gone")


def test_packages_are_added_to_the_environment_that_sts_runs_in(tmp_path: Path):
    place = tmp_path / "my tools"
    place.mkdir()
    versions = "openvino>=2026.4,<2027"
    assert to_install(versions, environment=place) == f'pip install "{versions}"'
    (place / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.13.9\nversion_info = 3.12.1\n")
    found = to_install("jinja2", "pygal", environment=place)
    assert found == f'uv pip install --python "{place}" jinja2 pygal'
    (place / "pipx_metadata.json").write_text(json.dumps({}))
    assert to_install("pyarrow", environment=place) == "pipx inject --force sts-cli pyarrow"


def test_triton_finds_everything_collected_at_the_end():
    """It writes pages about leaks otherwise."""
    code = (
        "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count()))\n"
        "from types import ModuleType; from sts_cli.machine.runtime import uncollected\n"
        "with uncollected(): sys.modules[sys.argv[1]] = ModuleType(sys.argv[1])"
    )
    left = {
        name: int(subprocess.check_output([sys.executable, "-c", code, name]))
        for name in ("triton", "other")
    }
    assert left["triton"] == gc.get_freeze_count() == 0 < left["other"]
