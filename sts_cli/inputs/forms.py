"""All forms that a row may have, the first that fits counts."""

from __future__ import annotations

from typing import Any

from sts_cli.inputs.answers import answer_in, fields_of_answer
from sts_cli.inputs.benchmarks import BENCHMARKS, Form, Row, by_image_id, has
from sts_cli.inputs.conversations import fields_of_conversation, is_conversation
from sts_cli.inputs.labelstudio import fields_of_task, is_task
from sts_cli.inputs.requests import fields_of_request, is_request

IMAGE = ("image", "images", "image_path", "file_name")  # keys that name an image


def fields_of_ours(row: Row) -> dict[str, Any]:
    answer = answer_in(row)
    assert answer is not None
    return fields_of_answer(answer)


def has_only_an_id(row: Row) -> bool:
    """True if a row asks about an image that it names by its id alone."""
    return has("image_id", "question")(row) and not any(key in row for key in IMAGE)


FORMS = (
    Form("OpenAI batch", is_request, fields_of_request),
    Form("answers of sts", lambda row: answer_in(row) is not None, fields_of_ours),
    Form("conversations", is_conversation, fields_of_conversation),
    Form("Label Studio", is_task, fields_of_task),
    *BENCHMARKS,
    Form("rows with an image id", has_only_an_id, by_image_id),
)


def form_of(row: object) -> Form | None:
    """The form of a row; None for a row of ours, and for what is no row at all."""
    if not isinstance(row, dict):
        return None
    return next((form for form in FORMS if form.fits(row)), None)


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of any form as the row of ours that asks the same. Raises ValueError."""
    form = form_of(row)
    return row if form is None else form.fields(row)
