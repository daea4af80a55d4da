"""What may import what, and when torch comes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sts_cli import pruning


def imported(*arguments: str) -> set[str]:
    """The top-level packages that `sts ARGUMENTS` imports."""
    names = "{name.partition('.')[0] for name in sys.modules}"
    return set(after(*arguments, shown=f"'\\n'.join({names})").split())


def after(*arguments: str, shown: str) -> str:
    """Standard error of `sts ARGUMENTS`; the value of the expression `shown` is its end."""
    code = (
        "import gc, sys; from sts_cli.__main__ import main\n"
        f"sys.argv = ['sts', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print({shown}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("ask", "--help"),
        ("batch", "--help"),
        ("profiles",),
        ("profiles", "show", "aggressive"),
        ("ask", "no-such-image.png", "--profile", "no-such-profile"),
        ("batch", "no-such-file.jsonl"),
    ],
    ids=" ".join,
)
def test_torch_is_not_imported_before_it_must(arguments: tuple[str, ...]):
    assert not imported(*arguments) & {"torch", "transformers", "bitsandbytes", "accelerate"}


UNUSED = {
    *("bitsandbytes", "datasets", "matplotlib", "openvino", "pandas", "pyarrow", "ray", "scipy"),
    "sklearn",
}


def test_ask_imports_no_package_that_it_does_not_use():
    picture = str(PACKAGE.parent / "samples" / "sign.png")
    assert not imported("ask", picture, "--backend", "torch", "--quiet") & UNUSED


def test_one_machine_answers_a_file_without_ray():
    questions = str(PACKAGE.parent / "samples" / "questions.jsonl")
    asked = ("batch", questions, "--limit", "1", "--max-new-tokens", "1", "--quiet")
    found = imported(*asked, "--backend", "torch")
    assert "torch" in found and not found & UNUSED


def test_the_collector_passes_over_what_the_libraries_made():
    """A third of the start of a command is saved by that."""
    picture = str(PACKAGE.parent / "samples" / "sign.png")
    shown = "(gc.isenabled(), gc.get_freeze_count() > 100_000)"
    err = after("ask", picture, "--backend", "torch", "--quiet", shown=shown)
    assert err.endswith("(True, True)\n")


@pytest.mark.parametrize("module", ("records", "errors", "answering.agreement"))
def test_records_and_errors_know_the_standard_library_only(module: str):
    code = f"import sys, sts_cli.{module}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = {name.partition(".")[0] for name in done.stdout.split()}
    assert found <= set(sys.stdlib_module_names) | {"sts_cli", "__main__"} | site_hooks()


def site_hooks() -> set[str]:
    """What this Python imports at start, whatever it runs."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("method", pruning.names())
def test_pruning_knows_tensors_only(method: str):
    """And these only while it cuts: profiles are checked before torch is there."""
    code = f"import sys, sts_cli.pruning.{method}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.startswith("sts_cli")}
    face = {"sts_cli", "sts_cli.profile", "sts_cli.records"}  # what importing the package brings
    others = {name for name in ours if not name.startswith("sts_cli.pruning")}
    assert others <= face | {"sts_cli.errors"}
    assert not {"torch", "transformers"} & set(done.stdout.split())


ORDER = (  # a room imports only what stands behind it
    ("__main__",),
    ("cli",),
    ("__init__",),
    ("cluster",),
    ("library",),
    ("evaluation", "scenes"),
    ("answering",),
    ("engine",),
    ("loading",),
    ("openvino",),
    ("quantization",),
    ("outputs",),
    ("checkpoints",),
    ("inputs", "profile_files", "report"),
    ("families",),
    ("decoding", "machine", "profile", "pruning", "records"),
    ("errors",),
)


def test_rooms_import_downwards_only_and_in_no_circle():
    place = {room: number for number, rooms in enumerate(ORDER) for room in rooms}
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        room = parts[0]
        for name in imports_of(path):
            other = name.split(".")[1]
            if other != room and place[room] >= place[other]:
                wrong.append(f"{'.'.join(parts)} imports {name}")
    assert wrong == []


PACKAGE = Path(__file__).parents[1] / "sts_cli"


def imports_of(path: Path) -> list[str]:
    """Our own modules that a file imports at run time, also inside functions."""
    tree = ast.parse(path.read_text("utf-8"))
    typing = [node for node in ast.walk(tree) if is_typing(node)]
    skipped = {id(inner) for node in typing for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in skipped:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            whole = names if node.module == "sts_cli" else [node.module]
            found += [name for name in whole if name.startswith("sts_cli.")]
    return [name for name in found if name != "sts_cli.__version__"]


def is_typing(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:`"""
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
