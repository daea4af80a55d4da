"""The library: its page runs as written, and images come in every form."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sts_cli
from sts_cli.errors import StsError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "library.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def vlm():
    return sts_cli.load("demo", profile="aggressive", dtype="float32")


def test_the_page_runs_as_it_is_written(monkeypatch: pytest.MonkeyPatch):
    """Every block after the other; where a print's comment says what comes, that comes."""
    monkeypatch.chdir(ROOT)
    told, out = "\n".join(BLOCKS), io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(told, "docs/library.md", "exec"), {})
    said = out.getvalue().splitlines()
    promised = re.findall(r"^print\(.*\) +# (.*)$", told, re.MULTILINE)
    assert len(BLOCKS) == 5 and len(promised) == 6
    assert [line for line in promised if line not in said] == []


def test_importing_the_library_imports_nothing_heavy():
    code = "import sts_cli, sys; sts_cli.Profile('x'); sts_cli.Item('1'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "typer", "PIL", "numpy"} & set(done.stdout.split())


def test_an_image_in_any_form_is_the_same_image(vlm, tmp_path: Path):
    picture = Image.linear_gradient("L").convert("RGB").resize((90, 60))
    picture.save(tmp_path / "a.png")
    forms = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        picture,
        np.asarray(picture),
    ]
    answers = list(vlm.batch([(form, "what is it?") for form in forms], max_new_tokens=4))
    assert {answer.problem for answer in answers} == {None}
    assert len({(answer.text, answer.tokens) for answer in answers}) == 1
    assert [answer.item.id for answer in answers] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((4, 4), np.float64), "An array of float64 and shape (4, 4) is no image"),
        (np.zeros((2, 3, 4, 4), np.uint8), "shape (2, 3, 4, 4) is no image"),
        (3.5, "not float"),
        (b"no image", "is not an image, or damaged"),
    ],
)
def test_what_is_no_image_is_a_problem_of_its_answer(vlm, image: object, reason: str):
    answer = vlm.ask(image, "what is it?")
    assert answer.text is None and answer.problem.kind == "image_unreadable"
    assert reason in answer.problem.message


def test_several_images_make_one_question(vlm):
    picture = Image.new("RGB", (50, 50), "red")
    answer = vlm.ask([picture, picture], "which is larger?", max_new_tokens=2, places=True)
    assert answer.tokens.visual == 2 * 576 and len(answer.kept) == 2


def test_mistakes_are_one_sentence():
    with pytest.raises(StsError, match="No profile named 'agressive'"):
        sts_cli.load("demo", profile="agressive")
    with pytest.raises(StsError, match="No folder 'no/such/model'"):
        sts_cli.load("no/such/model")
