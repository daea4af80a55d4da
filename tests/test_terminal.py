"""Text of others steers no terminal: ids, file names, answers, model names, what libraries say."""

from __future__ import annotations

import ast
import json
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from rich.table import Table
from rich.text import Text
from running import no_waiting_for_the_disk, on_terminal, sts
from tokenizers import Regex, Tokenizer, decoders

import sts_cli
from sts_cli.report.console import Screen
from sts_cli.report.visible import in_line, visible, visible_json

__all__ = ["no_waiting_for_the_disk"]

# The window's title, a bell, a reset, a cleared screen in C1, DEL, CR, text from right to left.
EVIL = "a\x1b]0;owned\x07\x1bc\x9b2J\x7f\r\u202eb\u200bc"
SEEN = r"a\x1b]0;owned\x07\x1bc\x9b2J\x7f\x0d\u202eb\u200bc"
SHORT = ("--max-new-tokens", "3")


def steering(text: str) -> set[str]:
    """Characters that are no text, beside those by which rich itself colours and moves."""
    rest = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    none = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return {one for one in rest if unicodedata.category(one) in none} - set("\n\r\t")


def flat(drawn: str) -> str:
    """What a terminal was sent, without colours and line ends."""
    return "".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).split())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a picture of an evil name."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), "red").save("0.png")
    shutil.copy("0.png", f"{EVIL}.png")
    return tmp_path


@pytest.fixture
def evil(tiny_checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that answers with control characters whatever it is asked."""
    folder = place / "model"
    shutil.copytree(tiny_checkpoint, folder)
    file = str(folder / "tokenizer.json")
    tokens = Tokenizer.from_file(file)
    tokens.decoder = decoders.Sequence([decoders.Replace(Regex(".+"), EVIL), decoders.Fuse()])
    tokens.save(file)
    monkeypatch.setenv("STS_MODEL", str(folder))
    return folder


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, SEEN),
        ("\x00\x08\x0b\x1f\x80\x9f", r"\x00\x08\x0b\x1f\x80\x9f"),
        ("\u200e\u2066\u2028\ufeff", r"\u200e\u2066\u2028\ufeff"),
        ("caf\udce9", r"caf\udce9"),
        ("a\u200db", r"a\u200db"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Größe 大 “x” \\x1b", "Größe 大 “x” \\x1b"),
        ("می\u200cخواهم 👩\u200d👧", "می\u200cخواهم 👩\u200d👧"),
    ],
)
def test_what_steers_is_shown_and_all_else_stays(text: str, shown: str):
    assert visible(text) == shown
    assert visible(visible(text)) == shown


def test_one_line_has_no_line_ends():
    assert in_line("a\nb\tc\r") == r"a\nb\tc\x0d"


def test_json_says_the_same_in_its_own_escapes():
    told = visible_json(json.dumps([EVIL, "Größe"], ensure_ascii=False))
    assert steering(told) == set() and "Größe" in told
    assert json.loads(told) == [EVIL, "Größe"]


def test_a_screen_shows_whatever_way_text_comes():
    screen = Screen(width=200)
    table = Table(EVIL)
    table.add_row(EVIL)
    with screen.capture() as said:
        for one in (EVIL, Text(EVIL), table):
            screen.print(one)
    told = said.get()
    assert steering(told) == set() and "\r" not in told
    assert told.count(SEEN) == 3  # rich itself takes BEL and CR out of a Text


def test_ask_on_a_terminal(evil: Path):
    done = on_terminal("ask", "0.png", *SHORT)
    assert done.code == 0 and steering(done.out) == set()
    assert SEEN in done.out
    compared = on_terminal("ask", f"{EVIL}.png", "--compare", *SHORT)
    assert compared.code == 0 and steering(compared.out) == set()
    assert flat(compared.out).count("owned") > 3  # streamed, then in both columns


def test_json_on_a_terminal_is_the_same_json(evil: Path):
    done = on_terminal("ask", "0.png", "--json", "-q", *SHORT)
    assert steering(done.out) == set()
    assert EVIL in json.loads(done.out)["answer"]


def test_an_answer_in_a_pipe_is_as_it_is(evil: Path):
    assert EVIL in sts("ask", "0.png", *SHORT).out
    (row,) = sts("ask", "0.png", "--json", *SHORT).rows
    assert EVIL in row["answer"]


def test_batch_on_a_terminal(evil: Path):
    rows = [
        {"id": EVIL, "image": "0.png", "question": EVIL},
        {"id": f"x\n{EVIL}", "image": f"gone{EVIL}.png", "question": "?"},
    ]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = on_terminal("batch", "q.jsonl", "--out", "a.jsonl", "--compare", *SHORT)
    assert done.code == 1 and steering(done.out) == set()
    assert SEEN in done.out and rf"x\n{SEEN}" in done.out
    first, second = (json.loads(line) for line in Path("a.jsonl").read_text("utf-8").splitlines())
    assert first["id"] == first["question"] == EVIL and EVIL in first["answer"]
    assert EVIL in second["error"]["message"]
    dry = on_terminal("batch", "q.jsonl", "--dry-run")
    assert dry.code == 1 and steering(dry.out) == set()
    assert rf"x\n{SEEN}: image_missing: No image gone{SEEN}.png." in dry.out.replace("\r\n", "")


def test_eval_on_a_terminal(evil: Path):
    rows = [{"image": "0.png", "question": "?", "answer": "x", "kind": EVIL}]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path(f"{EVIL}.yaml").write_text("structure: {method: grid, keep: 8}\n")
    done = on_terminal("eval", "q.jsonl", "-p", f"off,{EVIL}.yaml", *SHORT)
    assert done.code == 0 and steering(done.out) == set()
    assert flat(done.out).count("owned") == 3  # the profile in two tables, the kind in one


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", f"gone{EVIL}.png"),
        ("ask", f"--{EVIL}"),
        ("ask", "0.png", "?", "-p", EVIL),
        ("ask", "0.png", "?", "-m", f"./{EVIL}"),
        (f"x{EVIL}",),
        (f"--x{EVIL}",),
        ("batch", f"{EVIL}.jsonl"),
        ("batch", "0.png", "--out", f"0.png/{EVIL}.jsonl"),
        ("eval", EVIL),
        ("merge", "a.jsonl", EVIL),
        ("profiles", "show", EVIL),
    ],
    ids=lambda arguments: in_line(" ".join(arguments)),
)
def test_a_mistake_is_told_visibly(arguments: tuple[str, ...], place: Path):
    done = on_terminal(*arguments)
    assert done.code == 2 and steering(done.out) == set()
    assert r"\x1b]0;owned\x07" in done.out


@pytest.mark.parametrize("command", ["models", "doctor"])
def test_what_is_here_is_told_visibly(command: str, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STS_MODEL", f"/{EVIL}[/]")
    done = on_terminal(command)
    assert steering(done.out) == set()
    assert "\\x1b]0;" in flat(done.out)  # and "[/]" was no markup


def test_a_profile_is_shown_visibly(place: Path):
    text = 'about: "a"  # [red]\u202e\u200b\nstructure: {method: grid, keep: 8}\n'
    Path(f"{EVIL}.yaml").write_text(text)
    done = on_terminal("profiles", "show", f"{EVIL}.yaml")
    assert done.code == 0, done.out
    assert steering(done.out) == set()
    assert f"# {SEEN}.yaml" in done.out and r"[red]\u202e\u200b" in done.out


DATA = {  # where bytes of data leave, and the consoles themselves
    "report/console.py: Screen(stderr=True, soft_wrap=True)",
    "report/console.py: sys.stdout.write(shown(piece) if sys.stdout.isatty() else piece)",
    "outputs/stream.py: sys.stdout.buffer.write(record)",
}


def prints() -> set[str]:
    """Every call that writes to a terminal by itself, but JSON of ASCII."""
    root = Path(sts_cli.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Call) else ""
            if re.match(
                r"(print|(typer|click)\.s?echo|sys\.std\w+(\.buffer)?\.write|Console)\(", text
            ):
                found.add(f"{path.relative_to(root).as_posix()}: {text}")
    return {one for one in found if not re.search(r": typer\.echo\(json\.dumps\(.*\)\)$", one)}


def test_nothing_is_printed_past_the_screen():
    assert prints() <= DATA


def test_a_spinner_tells_that_the_model_loads_until_the_first_answer(evil: Path):
    drawn = on_terminal("ask", "0.png", *SHORT).out
    spinner, gone, answer = drawn.partition("\x1b[?25h")  # the cursor is back
    assert "Loading" in spinner
    assert gone and "Loading" not in answer and flat(SEEN) in flat(answer)


def test_no_spinner_moves_in_a_log_or_under_quiet(evil: Path):
    assert "Loading" not in sts("ask", "0.png", *SHORT).err
    assert "Loading" not in on_terminal("ask", "0.png", "--quiet", *SHORT).out
