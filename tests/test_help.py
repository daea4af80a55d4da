"""What people read before they run anything: --help, sts docs, the page made of the help."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from running import on_terminal, sts
from typer.main import get_command

from sts_cli.cli.app import app
from sts_cli.cli.docs import pages
from sts_cli.cli.help import ENVIRONMENT, EXITS, FIRST, GROUPS, page
from sts_cli.cli.reference import contexts, reference

ROOT = Path(__file__).parents[1]
CONTEXTS = {one.command_path: one for one in contexts(get_command(app))}
every_command = pytest.mark.parametrize("name", CONTEXTS)


def params(name: str) -> list[Any]:
    context = CONTEXTS[name]
    return list(context.command.get_params(context))


@every_command
@pytest.mark.parametrize("width", [80, 100])
def test_help_fits_the_terminal(name: str, width: int):
    lines = page(CONTEXTS[name], width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith(f"Usage: {name}")


@every_command
def test_help_explains_every_option_once(name: str):
    text = page(CONTEXTS[name], width=80)
    for one in params(name):
        assert one.help, one.name
        for option in (option for option in one.opts if option.startswith("--")):
            assert len(re.findall(rf"^  (?:-\w, |    ){option}(?: |$)", text, re.M)) == 1, option


@every_command
def test_groups_are_known_and_placeholders_are_words(name: str):
    for one in params(name):
        assert one.rich_help_panel in (None, *GROUPS)
        assert one.is_flag if hasattr(one, "is_flag") and not one.metavar else one.metavar


def test_help_is_what_the_command_prints():
    printed = on_terminal("batch", "--help-all").out.replace("\r\n", "\n")
    assert printed == page(CONTEXTS["sts batch"], width=80)
    assert on_terminal("ask", "-h").out.replace("\r\n", "\n") == page(CONTEXTS["sts ask"], width=80)


def test_sts_alone_shows_its_help():
    alone = sts()
    assert alone.code == 2 and alone.out == sts("--help").out and "Exit codes:" in alone.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ask", "--imag", "a"], "No such option: --imag. Did you mean '--image'? See: sts ask"),
        (["aks"], "No such command 'aks'. Did you mean 'ask'? See: sts"),
        (["batch"], "Missing argument 'INPUT...'. See: sts batch"),
        (["batch", "a", "--limit"], "Option '--limit' requires an argument. See: sts"),
        (["profiles", "shwo"], "No such command 'shwo'. Did you mean 'show'? See: sts profiles"),
    ],
)
def test_a_mistyped_command_is_answered_in_one_line(words: list[str], told: str):
    done = sts(*words)
    assert (done.code, done.out, done.err) == (2, "", f"sts: {told} --help\n")


def test_the_help_of_batch_fits_one_screen_and_names_the_rest():
    text = page(CONTEXTS["sts batch"], FIRST["batch"], 80)
    assert on_terminal("batch", "--help").out.replace("\r\n", "\n") == text
    assert len(text.splitlines()) <= 23  # and a prompt
    assert max(map(len, text.splitlines())) <= 80
    left_out = len(params("sts batch")) - len(FIRST["batch"])
    assert f"{left_out} more options: sts batch --help-all" in text


@pytest.mark.parametrize(("columns", "longest"), [("40", 80), ("200", 100)])
def test_help_is_never_wider_than_people_read(
    columns: str, longest: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", columns)
    lines = sts("batch", "--help-all").out.splitlines()
    assert longest - 10 < max(map(len, lines)) <= longest


def test_defaults_are_shown():
    text = page(CONTEXTS["sts batch"], width=80)
    for default in ("balanced", "$STS_MODEL, else demo", "the profile's, else none", "continue"):
        assert f"(default: {default})" in text
    assert "None" not in text and "False" not in text


def test_sts_help_lists_the_exit_codes_of_the_reference_and_all_variables():
    table = (ROOT / "docs/formats.md").read_text("utf-8").partition("## Exit codes")[2]
    codes = re.findall(r"^\| (\d+) \|", table, re.M)
    assert codes == [code for code, _ in EXITS]
    source = "".join(path.read_text("utf-8") for path in ROOT.glob("sts_cli/**/*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"(STS_\w+)\"", source))
    assert read == {name for name, _ in ENVIRONMENT if name.startswith("STS_")}
    told = sts("--help").out
    assert all(name in told for name in read) and "  130  Interrupted" in told


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_has_a_short_name(option: str):
    assert re.fullmatch(r"sts \d+\.\d+\.\d+\S*\n", sts(option).out)


def test_pages_that_help_names_are_there():
    named = {topic for one in CONTEXTS.values() for topic in topics(page(one, width=200))}
    assert named and named <= pages().keys()


def topics(text: str) -> list[str]:
    return [found for found in re.findall(r"sts docs ([a-z]+)", text) if found != "has"]


def test_docs_lists_every_page_and_shows_one():
    listed = sts("docs")
    assert listed.code == 0 and all(f"\n{name} " in listed.out for name in pages())
    text = (ROOT / "docs/formats.md").read_text("utf-8")
    for name in ("formats", "docs/formats.md"):
        assert sts("docs", name).out == text
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_terminal("docs", "formats").out)
    lines = [line.rstrip() for line in drawn.replace("\r", "").split("\n")]
    assert "Exit codes" in lines and not any(line.startswith("#") for line in lines)
    assert max(map(len, lines)) <= 80


def test_an_unknown_page_is_a_mistake():
    done = sts("docs", "format")
    assert done.code == 2 and "Did you mean 'formats'?" in done.err


def test_the_reference_is_made_of_the_help():
    """Else run: python -m sts_cli.cli.reference > docs/cli.md"""
    assert (ROOT / "docs/cli.md").read_text("utf-8") == reference()
