"""Notes on a profile: figures by hand, alarms for bad choices, silence for the shipped profiles."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import process, sts

import sts_cli
from benchmarks.synchronisations import counted
from sts_cli import Cut, Profile
from sts_cli.engine.looks import IMAGES, Looks, look
from sts_cli.families.default import Prompt
from sts_cli.records import Answer, Comparison, Item, Look, Seconds, TokenCounts
from sts_cli.report.notes import Notes, asks_for_place, asks_to_read
from sts_cli.scenes import phrasings

SAMPLES = Path(__file__).parents[1] / "samples"

# Figures


def lattice(side: int) -> torch.Tensor:
    """The centres of side x side tokens."""
    middle = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(middle, middle)


def test_figures_are_what_they_are_by_hand():
    places, features = lattice(4), torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    keep = [4, 5, 9, 12]
    found = look(features, features[keep], places, places[keep])

    def cosine(rows: Sequence[int]) -> float:
        values = features.double().numpy()
        pairs = itertools.combinations(rows, 2)
        return float(
            np.mean(
                [
                    values[a] @ values[b] / np.linalg.norm(values[a]) / np.linalg.norm(values[b])
                    for a, b in pairs
                ]
            )
        )

    assert found.kept == 4
    assert found.alike == pytest.approx(cosine(keep), abs=1e-5)
    assert found.alike_before == pytest.approx(cosine(range(16)), abs=1e-5)
    # The kept are in rows 1, 1, 2, 3 and columns 0, 1, 1, 0 of 0..3, a quarter of the side each.
    assert found.row == pytest.approx((1.75 - 1.5) / 4)
    assert found.column == pytest.approx((0.5 - 1.5) / 4)
    # 0.25 of the side is the width of one token here.
    near = {(r, c) for k in keep for r in range(4) for c in range(4)
            if (r - k // 4) ** 2 + (c - k % 4) ** 2 <= 1}  # fmt: skip
    assert found.bare == 1 - len(near) / 16


def test_the_effective_rank_is_that_of_the_choice_against_a_random_one():
    places = lattice(6)
    features = torch.eye(36)  # every choice of K has K directions
    kept = list(range(8))
    assert look(features, features[kept], places, places[kept]).rank == pytest.approx(1, abs=1e-4)
    same = features[:1].expand(8, -1)
    assert look(features, same, places, places[kept]).rank == pytest.approx(1 / 8, abs=1e-4)
    two = torch.cat([features[:1].expand(4, -1), features[1:2].expand(4, -1)])
    assert look(features, two, places, places[kept]).rank == pytest.approx(2 / 8, abs=1e-4)


def test_broken_numbers_of_a_model_stop_no_look():
    places, features = lattice(4), torch.full((16, 3), float("nan"))
    assert look(features, features[:4], places, places[:4]).kept == 4


# Sentences

GOOD = Look(64, alike=0.4, alike_before=0.6, rank=1.1, bare=0.0, row=0.0, column=0.0)
FIRST = Profile("mine", cuts=(Cut("attend", 64),))
SECONDS = Seconds(0.0, 0.0, 0.001, 0.010, 0.005, 0.011, 0.016)
ANSWER = Answer(
    Item("1", ("a.png",), "what is this?"),
    "demo",
    "mine",
    text="a cat",
    tokens=TokenCounts(576, (64,), 64.0, 36, 3),
    seconds=SECONDS,
)


def told(profile: Profile, answers: Sequence[Answer]) -> list[list[str]]:
    """The notes of each answer."""
    notes = Notes(profile)
    return [list(notes.noted(answer).notes) for answer in answers]


def seen(*looks: Look) -> list[Answer]:
    return [replace(ANSWER, looks=(one,)) for one in looks]


def test_kept_tokens_that_look_alike_are_noted_once():
    alike = replace(GOOD, alike=0.9, rank=0.3)
    first, *later = told(FIRST, seen(alike, alike, alike))
    assert first == [
        "note: profile 'mine': the tokens that attend keeps look alike (mean cosine 0.90, of all "
        "0.60; effective rank 30% of a random choice's). Try method repulsion, or a larger keep."
    ]
    assert later == [[], []]


@pytest.mark.parametrize(
    "look",
    [
        GOOD,
        replace(GOOD, alike=0.9, rank=0.7),  # alike, but in as many directions
        replace(GOOD, alike=0.75, rank=0.3),  # not half way from 0.6 to 1
        replace(GOOD, kept=23, alike=0.9, rank=0.3),  # so few may be alike by chance
        replace(GOOD, bare=0.24),
        replace(GOOD, row=0.4, column=0.4),  # of one image, this says nothing
    ],
)
def test_what_may_be_chance_is_not_noted(look: Look):
    assert told(FIRST, seen(look)) == [[]]


def test_an_uncovered_part_is_noted_after_the_first_cut_only():
    bare = replace(GOOD, bare=0.5)
    (note,) = told(FIRST, seen(bare))[0]
    assert "attend keeps no token in or near 50% of the image" in note
    two = Profile("mine", cuts=(Cut("grid", 128), Cut("attend", 64, 0.5)))
    assert told(two, [replace(ANSWER, looks=(GOOD, bare))]) == [[]]


def test_a_position_bias_needs_many_images_that_agree():
    low = replace(GOOD, row=0.3)
    *before, last = told(FIRST, seen(*[low] * IMAGES))
    assert not any(before) and len(last) == 1
    assert "in 8 images, the tokens that attend keeps lie mostly at the bottom" in last[0]
    left = told(FIRST, seen(*[replace(GOOD, column=-0.3)] * IMAGES))[-1]
    assert "mostly at the left" in left[0]
    apart = [replace(GOOD, row=row) for row in (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, -0.45, -0.45)]
    assert not any(told(FIRST, seen(*apart)))  # 0.26 on average, but not in all
    assert not any(told(FIRST, seen(*[replace(GOOD, row=0.2)] * IMAGES)))


def test_answers_under_another_profile_count_for_nothing():
    other = replace(ANSWER, profile="extreme", looks=(replace(GOOD, bare=0.9),))
    assert told(FIRST, [other]) == [[]]


def timed(select: float, prefill: float) -> Answer:
    return replace(ANSWER, seconds=replace(SECONDS, select=select, prefill=prefill, total=0.04))


def test_a_choice_that_costs_more_than_it_saves_is_noted_when_that_is_clear():
    """A prefill of 100 tokens in 1 ms would be 6.12 ms for 612: 5.12 are saved."""
    *before, last = told(FIRST, [timed(0.010, 0.001)] * 32)  # 8 that warm up, 24 that count
    assert not any(before)
    assert last == [
        "note: profile 'mine': choosing tokens takes 10.0 ms a question and saves 5.1 ms of "
        "prefill. Use profile off, or a cheaper method such as grid."
    ]
    assert not any(told(FIRST, [timed(0.005, 0.001)] * 99))  # it costs less
    assert not any(told(FIRST, [timed(0.007, 0.001)] * 99))  # 1.9 ms more, of 40
    slow = [timed(9.0, 0.001)] * 8
    assert not any(told(FIRST, [*slow, *[timed(0.005, 0.001)] * 99]))  # the first compile


def test_with_a_comparison_the_saving_is_measured():
    def beside(full: float) -> Answer:
        answer = timed(0.010, 0.001)
        assert answer.seconds is not None
        off = replace(answer, seconds=replace(answer.seconds, prefill=full))
        return replace(answer, comparison=Comparison(off, True, 1.0, 1.0, 1.0))

    (note,) = told(FIRST, [beside(0.003)] * 32)[-1]
    assert "takes 10.0 ms a question and saves 2.0 ms" in note
    assert not any(told(FIRST, [beside(0.020)] * 32))


def shares(average: float, question: str) -> Answer:
    tokens = TokenCounts(100, (int(average),), average, 20, 3)
    return replace(ANSWER, tokens=tokens, item=replace(ANSWER.item, question=question))


@pytest.mark.parametrize(
    ("method", "average", "question", "said"),
    [
        ("repulsion", 5.6, "what does the sign say?", "a question asks to read"),
        ("repulsion", 11.1, "what does the sign say?", ""),
        ("repulsion", 5.6, "what colour is the text?", ""),
        ("repulsion", 5.6, "where is the cat?", ""),
        ("repulsion", 1.4, "where is the cat?", "a question asks for a place"),
        ("star_pro", 11.1, "what does the sign say?", ""),
        ("star_pro", 5.6, "where is the cat?", ""),
        ("random", 11.1, "what does the sign say?", "a question asks to read"),
        ("random", 11.1, "where is the cat?", "a question asks for a place"),
        ("random", 50, "what does the sign say?", ""),
    ],
)
def test_text_and_places_under_a_harsh_budget_are_noted(
    method: str, average: float, question: str, said: str
):
    profile = Profile("mine", cuts=(Cut(method, 0.1),))
    first, second = told(profile, [shares(average, question)] * 2)
    assert len(first) == bool(said) and said in "".join(first)
    assert second == []


def test_questions_are_told_apart_by_their_words():
    read = [one.format("red") for one in (*phrasings.TEXT, *phrasings.TEXT_OF)]
    place = [one.format("cat", "dog") for one in (*phrasings.PLACE, *phrasings.RELATION)]
    neither = [
        one.format("red", "dog")
        for name in ("SIGN_COLOR", "SIGN_COLOR_OF", "TEXT_COLOR", "COLOR", "SHAPE", "EXIST")
        for one in getattr(phrasings, name)
    ]
    neither += [*phrasings.DESCRIBE, *(one.format("cats") for one in phrasings.COUNT)]
    neither += [
        "is it open? answer the question using a single word or phrase.",
        "what is the number of cats? in one word.",
        "say what is in the image",
    ]
    assert [one for one in read if not asks_to_read(one)] == []
    assert [one for one in place if not asks_for_place(one)] == []
    assert [one for one in neither if asks_to_read(one) or asks_for_place(one)] == []
    assert [one for one in place if asks_to_read(one)] == []
    assert asks_to_read("What is the phone number on the van?")
    assert asks_for_place("Is the cat to the left of the dog?")


# Runs


@pytest.fixture(scope="module")
def vlm():
    return sts_cli.load("demo", dtype="float32", backend="torch")


@pytest.mark.parametrize("name", ["gentle", "balanced", "aggressive"])
def test_a_shipped_profile_gives_no_note_on_the_samples(vlm, name: str):
    rows = [json.loads(line) for line in (SAMPLES / "questions.jsonl").read_text().splitlines()]
    items = [(SAMPLES / row["image"], row["question"]) for row in rows]
    answers = list(vlm.batch(items, profile=name, max_new_tokens=1))
    assert sum(len(answer.looks) > 0 for answer in answers) == IMAGES
    assert [answer.notes for answer in answers] == [()] * len(items)


def test_a_blank_image_gives_no_note(vlm):
    blank = Image.new("RGB", (336, 336), "white")
    answer = vlm.ask(blank, "what is it?", profile="extreme", max_new_tokens=1)
    assert len(answer.looks) == 2 and answer.notes == ()


METHODS = """
from dataclasses import dataclass
import torch
from sts_cli.pruning import Cutting

@dataclass(frozen=True)
class Alike:
    "The tokens most alike."
    needs = ()
    def cut(self, look, count):
        unit = torch.nn.functional.normalize(look.features.float(), dim=-1)
        cosines = unit @ unit.T
        middle = cosines.topk(count).values.mean(1).argmax()
        return Cutting(cosines[middle].topk(count).indices.sort().values)

@dataclass(frozen=True)
class Bottom:
    "The last tokens."
    needs = ()
    def cut(self, look, count):
        return Cutting(torch.arange(len(look.features))[-count:])
"""


def batch_with(method: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`sts batch` on the samples with a bad method that another package brings."""
    (folder / "bad_methods.py").write_text(METHODS)
    (folder / "bad-1.dist-info").mkdir(exist_ok=True)
    (folder / "bad-1.dist-info" / "METADATA").write_text("Name: bad\nVersion: 1\n")
    (folder / "bad-1.dist-info" / "entry_points.txt").write_text(
        "[sts.pruning]\nalike = bad_methods:Alike\nbottom = bad_methods:Bottom\n"
    )
    (folder / "bad.yaml").write_text(f"structure: {{method: {method}, keep: 32}}\n")
    arguments = ("--profile", folder / "bad.yaml", "--max-new-tokens", 1, "--backend", "torch")
    path = os.pathsep.join([str(folder), str(SAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    return process(
        "batch",
        SAMPLES / "questions.jsonl",
        *arguments,
        *options,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("alike", ["the tokens that alike keeps look alike", "alike keeps no token in or near"]),
        (
            "bottom",
            [
                "the tokens that bottom keeps look alike",
                "bottom keeps no token in or near",
                "in 8 images, the tokens that bottom keeps lie mostly at the bottom",
            ],
        ),
    ],
)
def test_a_bad_method_is_noted_once_in_a_run(method: str, said: list[str], tmp_path: Path):
    done = batch_with(method, tmp_path)
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: profile 'bad'")]
    assert done.returncode == 0, done.stderr
    assert len(notes) == len(said) + 1  # and that the questions ask to read
    assert [sum(each in note for note in notes) for each in said] == [1] * len(said)
    assert "note" not in done.stdout and len(done.stdout.splitlines()) == 24
    assert "note:" not in batch_with(method, tmp_path, "--quiet").stderr


def test_ask_tells_the_notes_after_the_answer():
    done = sts("ask", SAMPLES / "sign.png", "what does it say?", "-p", "random")
    assert done.err.count("note: profile 'random' keeps 11% of the visual tokens") == 1
    assert "note" not in done.out


def test_only_the_first_images_are_looked_at_and_then_nothing_waits(vlm):
    """A look reads from the device, so a run pays for it eight times and no more."""
    family = vlm.engine.family
    pictures = [Image.new("RGB", (40, 40), (20 * n, 0, 0)) for n in range(IMAGES + 2)]
    pictures = [*pictures[:1], *pictures]  # one of them twice
    encoded, _ = vlm.engine.encode([family.pixels(picture) for picture in pictures])
    prompts = [Prompt(family.tokenize("what?", [one.pixels]), (one,)) for one in encoded]
    looks, profile = Looks(), sts_cli.load_profile("aggressive")
    found = vlm.engine.generate(prompts, profile, max_new_tokens=1, looks=looks)
    assert [len(one.looks) for one in found] == [2, 0, *[2] * (IMAGES - 1), 0, 0]

    def later() -> None:
        vlm.engine.generate(prompts[-2:], profile, max_new_tokens=1, looks=looks)

    def without() -> None:
        vlm.engine.generate(prompts[-2:], profile, max_new_tokens=1)

    assert counted(later) == counted(without)
