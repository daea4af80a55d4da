"""`make package`: the wheel and the sdist, installed as users install them, and used.

For the oldest Python with the oldest versions that pyproject.toml allows, and for the newest Python
here with the newest ones: an empty environment, an empty folder, the wheel, the first commands. A
Python that is not on this machine is left out, and that is said. What the other systems get is
resolved, not installed. With --here, only the Python that runs this, with the versions that `make`
installs: no second PyTorch is downloaded.

    python tests/installing.py [--here] [FOLDER]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST, NEWEST = "3.10", ("3.14", "3.13", "3.12")
ALL = ("smolvlm", "heic", "html", "parquet", "openvino")  # the extras for users
WHEELS = tuple(extra for extra in ALL if extra != "smolvlm")  # docopt comes as its source only
SYSTEMS: dict[str, dict[str, str]] = {  # where PyTorch and OpenVINO have wheels
    "x86_64-manylinux_2_28": {},
    "aarch64-manylinux_2_35": {},
    "x86_64-pc-windows-msvc": {},
    "aarch64-apple-darwin": {"MACOSX_DEPLOYMENT_TARGET": "14.0"},
}
SHOWN = 30  # lines of a command that failed


def main(folder: Path, here: bool) -> int:
    """The number of checks that failed."""
    failed = 0
    packages = built(folder / "dist")
    if here:
        return check("this Python, the versions of make", install_here, folder / "here", packages)
    for system, environment in SYSTEMS.items():
        failed += check(f"resolves for {system}", resolved, system, environment)
    newest = next((version for version in NEWEST if python(version)), None)
    for version, resolution in ((OLDEST, "lowest-direct"), (newest, "highest")):
        if version is None or python(version) is None:
            print(f"skipped: Python {version or NEWEST} is not on this machine", flush=True)
            continue
        place = folder / f"{version}-{resolution}"
        name = f"Python {version}, {resolution} versions"
        failed += check(name, install_and_use, place, version, resolution, packages)
    if newest != NEWEST[0]:
        print(f"skipped: Python {NEWEST[0]} is not on this machine; resolved only", flush=True)
    return failed


def built(folder: Path) -> Path:
    """The wheel, built from the sdist that is built from this tree."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    tree = folder / "tree"
    shutil.unpack_archive(sdist, tree)
    (unpacked,) = tree.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=unpacked)
    shutil.rmtree(tree)
    (wheel,) = folder.glob("*.whl")
    print(f"built {sdist.name} ({sdist.stat().st_size:,} bytes)", flush=True)
    print(f"built {wheel.name} ({wheel.stat().st_size:,} bytes)", flush=True)
    return wheel


def resolved(system: str, environment: dict[str, str]) -> str:
    """Find a wheel of every package for a system and the newest Python."""
    words = ["--quiet", "--python", sys.executable, "--python-version", NEWEST[0]]
    words += ["--only-binary", ":all:", "--python-platform", system]
    words += [f"--extra={extra}" for extra in WHEELS]
    uv("pip", "compile", *words, ROOT / "pyproject.toml", **environment)
    return f"Python {NEWEST[0]}"


def install_and_use(place: Path, version: str, resolution: str, wheel: Path) -> str:
    """The versions that were installed, with which the first commands ran."""
    versions = install(place, version, resolution, wheel)
    use(place)
    return versions


def install(place: Path, version: str, resolution: str, wheel: Path) -> str:
    """Install the wheel and its extras into an empty environment."""
    uv("venv", "--quiet", "--python", python(version) or version, place)
    words = ["--quiet", "--python", place]
    extras = [f"--extra={extra}" for extra in ALL]
    uv("pip", "install", *words, "--resolution", resolution, "-r", ROOT / "pyproject.toml", *extras)
    uv("pip", "install", *words, "--no-deps", wheel)
    return versions_in(uv("pip", "list", "--python", place))


def versions_in(listed: str) -> str:
    """The packages of `pip list` that matter most."""
    wanted = ("numpy", "torch", "transformers", "openvino")
    words = [line.split() for line in listed.splitlines() if line]
    return ", ".join(" ".join(line) for line in words if line[0] in wanted)


def install_here(place: Path, wheel: Path) -> str:
    """The versions of an empty environment of this Python, with which the first commands ran."""
    run(sys.executable, "-m", "venv", place)
    pip = [place / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    wanted = f"{wheel}[{','.join(ALL)}]"
    run(*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", wanted)
    use(place)
    return versions_in(run(*pip, "list"))


def use(place: Path) -> None:
    """The first commands of a new user, away from this tree."""
    with tempfile.TemporaryDirectory() as empty:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["XDG_CACHE_HOME"] = empty

        def sts(*words: object) -> str:
            return run(place / "bin" / "sts", *words, cwd=empty, env=environment)

        assert sts("--version").split()[0] == "sts"
        assert "sts COMMAND" in sts("--help")
        pages = run(
            place / "bin" / "python", "-m", "sts_cli.cli.reference", cwd=empty, env=environment
        )
        assert pages == (ROOT / "docs" / "cli.md").read_text("utf-8"), "other help than docs/cli.md"
        assert "formats" in sts("docs") and "# " in sts("docs", "install")
        assert "aggressive" in sts("profiles")
        (package,) = place.glob("lib/python*/site-packages/sts_cli")
        sign = package / "samples" / "sign.png"
        for backend in ("torch", "openvino"):
            found = sts("ask", sign, "what is on the sign?", "--backend", backend)
            assert "CAKE" in found.splitlines(), found
        sts("batch", package / "samples", "--limit", 2, "--out", "a.jsonl", "--html", "a.html")
        assert len(Path(empty, "a.jsonl").read_text("utf-8").splitlines()) == 2


def python(version: str) -> str | None:
    """A Python of this version on this machine."""
    known = Path.home() / ".pyenv" / "versions"
    for found in (shutil.which(f"python{version}"), *known.glob(f"{version}.*/bin/python")):
        if found is not None:
            tried = subprocess.run([found, "--version"], capture_output=True, text=True)
            if tried.stdout.startswith(f"Python {version}."):
                return str(found)
    return None


def check(name: str, job: Callable[..., str], *given: object) -> bool:
    """Do a job, say how it ended, and return True if it failed."""
    start = time.monotonic()
    try:
        said = job(*given)
    except (AssertionError, subprocess.CalledProcessError) as error:
        output = getattr(error, "output", "") or ""
        print(f"FAILED: {name}: {error}", *output.splitlines()[-SHOWN:], sep="\n", flush=True)
        return True
    print(f"{name} ({time.monotonic() - start:.0f} s){': ' if said else ''}{said}", flush=True)
    return False


def uv(*words: object, **environment: str) -> str:
    """Run uv, which may take what this machine has of Python."""
    own = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", **environment}
    return run(sys.executable, "-m", "uv", *words, env=own)


def run(*words: object, cwd: str | Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a command says on both streams."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--here"]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(words[0] if words else temporary).resolve()
        sys.exit(main(place, "--here" in sys.argv))
