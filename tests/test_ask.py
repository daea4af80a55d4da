"""sts ask: which words are images and which the question, standard input, mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from running import no_waiting_for_the_disk, on_terminal, sts, without_times

from sts_cli.cli.asked import asked_about
from sts_cli.cli.options import OptionError

__all__ = ["no_waiting_for_the_disk"]

SHORT = ("--max-new-tokens", "3")


@pytest.fixture
def place(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two pictures, where `sts` finds a small model."""
    monkeypatch.setenv("STS_MODEL", str(tiny_checkpoint))
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("with blank.png", "green")):
        Image.new("RGB", (50, 40), colour).save(name)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "more", "images", "question"),
    [
        (["a.png"], [], ["a.png"], "What is in the image?"),
        (["a.png", "what?"], [], ["a.png"], "what?"),
        (["a.png", "b.png", "what?"], [], ["a.png", "b.png"], "what?"),
        (["a.png", "b.png"], [], ["a.png", "b.png"], "What is in the image?"),
        (["what?"], ["a.png"], ["a.png"], "what?"),
        ([], ["a.png", "b.png"], ["a.png", "b.png"], "What is in the image?"),
        (["b.png", "what?"], ["a.png"], ["a.png", "b.png"], "what?"),
        (["gone.png", "what?"], [], ["gone.png"], "what?"),
        (["gone"], [], ["gone"], "What is in the image?"),
        (["a.png", "is it like b.png"], [], ["a.png"], "is it like b.png"),
        (["with blank.png", "what?"], [], ["with blank.png"], "what?"),
        (["-", "what?"], [], ["-"], "what?"),
        (["data:;base64,AAAA", "what?"], [], ["data:;base64,AAAA"], "what?"),
    ],
)
def test_the_last_word_is_the_question_unless_it_is_an_image(
    words: list[str], more: list[str], images: list[str], question: str, place: Path
):
    assert asked_about(words, more) == (images, question)


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        (["what is it?", "a.png"], [], "'what is it?' names no image, but 'a.png' does. Did you"),
        (["what", "a.png", "b.png"], [], "Did you swap them?"),
        (["a.png", "what", "is", "it"], [], "'what' names no image. Put the question in quotes"),
        (["a.png", ""], [], "the question is empty"),
        (["a.png", "  "], [], "the question is empty"),
        ([""], ["a.png"], "the question is empty"),
        ([], [], "an image is missing"),
        (["", "what?"], [], "an image is missing"),
        (["https://example.org/a.png"], [], "is a web address, and sts downloads no images. Save"),
        (["what?"], ["s3://bucket/a.png"], "s3://bucket/a.png is a web address"),
        (["-", "-", "what?"], [], "- stands twice"),
    ],
)
def test_a_mistake_says_what_to_do(words: list[str], more: list[str], message: str, place: Path):
    with pytest.raises(OptionError) as caught:
        asked_about(words, more)
    assert message in str(caught.value)
    done = sts("ask", *words, *(part for name in more for part in ("-i", name)))
    assert (done.code, done.out) == (2, "") and message in done.err


def test_several_images_are_one_question_however_they_are_given(place: Path):
    (row,) = sts("ask", "a.png", "b.png", "which?", "--json", *SHORT).rows
    assert row["images"] == ["a.png", "b.png"] and row["question"] == "which?"
    (one,) = sts("ask", "a.png", "which?", "--json", *SHORT).rows
    assert row["tokens"]["visual"] == 2 * one["tokens"]["visual"]
    (same,) = sts("ask", "-i", "a.png", "--image", "b.png", "which?", "--json", *SHORT).rows
    assert without_times([same]) == without_times([row])


def test_an_image_may_come_from_standard_input(place: Path):
    content = Path("a.png").read_bytes()
    piped = sts("ask", "-", "which?", "-q", *SHORT, stdin=content)
    assert piped.code == 0 and piped.out == sts("ask", "a.png", "which?", "-q", *SHORT).out
    for wrong, message in ((b"", "standard input is empty"), (b"no image", "image")):
        done = sts("ask", "-", "which?", stdin=wrong)
        assert (done.code, done.out) == (2, "") and message in done.err


def test_an_overlay_is_of_one_image_and_is_announced(place: Path):
    done = sts("ask", "a.png", "b.png", "which?", "--overlay", "kept.png", *SHORT)
    assert done.code == 2 and "--overlay draws one image here" in done.err
    done = sts("ask", "a.png", "which?", "--overlay", "kept.png", *SHORT)
    assert done.code == 0 and "Wrote kept.png.\n" in done.err


def test_the_swap_is_told_on_a_terminal_too(place: Path):
    assert "Did you swap them?" in " ".join(on_terminal("ask", "what?", "a.png").out.split())
