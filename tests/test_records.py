"""Rows of the command-line contract: what programs read."""

from __future__ import annotations

import json
from pathlib import Path

from sts_cli.records import (
    Answer,
    Certainty,
    Comparison,
    Item,
    Problem,
    Seconds,
    TokenCounts,
    answer_row,
    label,
    printable,
)

ITEM = Item("7", ("street.png",), "what is on the sign?", Path("photos"), extra={"page": 3})
ANSWER = Answer(
    ITEM,
    "demo",
    "aggressive",
    text="OPEN",
    tokens=TokenCounts(576, (96, 32), 64.0, 21, 3),
    seconds=Seconds(0.004, 0.021, 0.001, 0.011, 0.006, 0.0379999999, 0.044),
    finish="stop",
    certainty=Certainty(0.98765, 0.5),
)


def test_an_answer_is_the_row_of_the_contract():
    assert answer_row(ANSWER) == {
        "id": "7",
        "image": "street.png",
        "question": "what is on the sign?",
        "answer": "OPEN",
        "certainty": {"probability": 0.9877, "margin": 0.5},
        "tokens": {
            "visual": 576,
            "left": [96, 32],
            "structure": 96,
            "semantics": 32,
            "average": 64.0,
            "text": 21,
            "generated": 3,
        },
        "seconds": {
            "image": 0.004,
            "encode": 0.021,
            "select": 0.001,
            "prefill": 0.011,
            "decode": 0.006,
            "first_token": 0.038,
            "total": 0.044,
        },
        "model": "demo",
        "profile": "aggressive",
        "escalated": None,
        "rows": 1,
        "finish": "stop",
        "error": None,
        "extra": {"page": 3},
    }


def test_a_failed_row_has_the_same_keys():
    failed = Answer(ITEM, "demo", "aggressive", problem=Problem("image_missing", "No image."))
    row = answer_row(failed)
    assert row.keys() == answer_row(ANSWER).keys()
    assert row["answer"] is None and row["tokens"] is None and row["seconds"] is None
    assert row["error"] == {"kind": "image_missing", "message": "No image."}


def test_a_comparison_adds_the_unpruned_answer():
    full = Answer(ITEM, "demo", "off", text="OPEN", tokens=ANSWER.tokens, seconds=ANSWER.seconds)
    versus = Comparison(full, True, 2 / 3, 4.98765, 1.23456)
    row = answer_row(Answer(ITEM, "demo", "aggressive", text="OPEN", comparison=versus))
    assert set(row["full"]) == {"answer", "certainty", "tokens", "seconds"}
    assert (row["agree"], row["similarity"]) == (True, 0.6667)
    assert row["speedup"] == {"prefill": 4.988, "total": 1.235}


def test_several_images_and_none_are_told_apart():
    two = Item("1", ("a.png", "b.png"), "?", answers=("yes", "yeah"))
    row = answer_row(Answer(two, "m", "p"))
    assert (
        row["images"] == ["a.png", "b.png"]
        and row["image"] is None
        and row["expected"] == ["yes", "yeah"]
    )
    row = answer_row(Answer(Item("1"), "m", "p"))
    assert row["image"] is None and row["question"] is None and "expected" not in row


def test_names_that_are_no_text_are_escaped():
    assert printable("caf\udce9") == "caf\\udce9" and printable("café") == "café"
    json.dumps(answer_row(Answer(Item("1", ("\udcff",)), "m", "p"))).encode("utf-8")


def test_an_image_inside_a_row_is_named_by_its_content():
    one, two = (label(f"data:image/png;base64,{body}") for body in ("AAAA", "BBBB"))
    assert one != two and one.startswith("data:image/png;") and len(one) < 40
