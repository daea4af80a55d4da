"""What may import what, and when torch comes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sts_cli import pruning


def imported(*arguments: str) -> set[str]:
    """The top-level packages that `sts ARGUMENTS` imports."""
    code = (
        "import sys; from sts_cli.__main__ import main\n"
        f"sys.argv = ['sts', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('\\n'.join({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


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
    base = {"sts_cli.pruning.repulsion"} if method == "relevance" else set()
    face = {"sts_cli", "sts_cli.profile", "sts_cli.records"}  # what importing the package brings
    own = face | {"sts_cli.errors", "sts_cli.pruning", f"sts_cli.pruning.{method}"}
    assert ours <= own | base
    assert not {"torch", "transformers"} & set(done.stdout.split())
