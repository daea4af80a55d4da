"""Cascades: what an answer's certainty is, who is asked again, and that nothing else changes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import asked
from PIL import Image
from running import read_rows, sts

from sts_cli.answering.cascade import Gate, Tried
from sts_cli.answering.request import Request
from sts_cli.answering.scheduler import answer_all, answer_each
from sts_cli.checkpoints.sources import find
from sts_cli.decoding.static import StaticDecoder
from sts_cli.engine.engine import Engine
from sts_cli.evaluation.conditions import Condition
from sts_cli.evaluation.table import Results
from sts_cli.evaluation.threshold import threshold
from sts_cli.inputs.images import Prepared
from sts_cli.loading.model import load
from sts_cli.profile import Escalate, Profile
from sts_cli.profile_files import load_profile
from sts_cli.records import Answer, Item, Problem

OFF, BALANCED, EXTREME = (load_profile(name) for name in ("off", "balanced", "extreme"))
COUNT = 12


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine(load(find(str(tiny_checkpoint)), dtype="float32"))


def picture(seed: int) -> Image.Image:
    noise = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (40, 60, 3), generator=noise, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def prepared(number: int, problem: Problem | None = None) -> Prepared:
    image, question = number % 3, "what is on the sign? " * (1 + number % 4)
    item = Item(id=str(number), images=(f"{image}.png",), question=question, problem=problem)
    if problem is not None:
        return Prepared(item, (), (), 0.0)
    return Prepared(item, (picture(image),), (str(image),), 0.0)


def questions() -> list[Prepared]:
    """Questions of different lengths about three images."""
    return [prepared(number) for number in range(COUNT)]


def answered(
    engine: Engine, profile: Profile, rows: Iterable[Prepared] | None = None, **settings: Any
) -> Iterator[Answer]:
    call = {name: settings.pop(name) for name in ("on_text", "stop") if name in settings}
    settings = {"max_new_tokens": 4, "batch_size": 4, **settings}
    rows = questions() if rows is None else rows
    return answer_all(engine, rows, Request((profile,), **settings), **call)


def to(profile: Profile, below: float, **settings: Any) -> Profile:
    """`extreme`, whose answers escalate to a profile."""
    return replace(EXTREME, name="rising", escalate=Escalate(below, profile, **settings))


def tries(engine: Engine, profile: Profile) -> list[Answer]:
    return list(answered(engine, profile, batch_size=1))


def middle(answers: list[Answer], measure: str = "probability") -> float:
    """A limit that half of the answers are below."""
    figures = sorted(getattr(one.certainty, measure) for one in answers)
    assert figures[0] < figures[COUNT // 2 - 1] < figures[COUNT // 2]
    return (figures[COUNT // 2 - 1] + figures[COUNT // 2]) / 2


def test_certainty_is_that_of_the_models_own_distributions(engine: Engine):
    """The geometric mean of what `generate` chose, the end included, and the first lead."""
    prompt = asked(engine.family, "what is on the sign?", picture(1))
    ids = torch.tensor([prompt.ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= prompt.images[0].pixels.inputs
    found = engine.family.model.generate(
        **inputs,
        max_new_tokens=5,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    shares = [row[0].double().softmax(-1).sort(descending=True).values for row in found.logits]
    (whole,) = engine.generate([prompt], OFF, max_new_tokens=5)
    product = math.prod(float(share[0]) for share in shares)
    assert whole.certainty.probability == pytest.approx(product ** (1 / 5), rel=1e-4)
    lead = float(shares[0][0] - shares[0][1])
    assert whole.certainty.margin == pytest.approx(lead, rel=1e-3)
    last = whole.ids[2]
    assert last not in whole.ids[:2]
    ends, engine.ends = engine.ends, frozenset({last})
    try:
        (ended,) = engine.generate([prompt], OFF, max_new_tokens=5)
    finally:
        engine.ends = ends
    assert len(ended.ids) == 2
    product = math.prod(float(share[0]) for share in shares[:3])
    assert ended.certainty.probability == pytest.approx(product ** (1 / 3), rel=1e-4)


@pytest.mark.parametrize("measure", ["probability", "margin"])
@pytest.mark.parametrize("settings", [{}, {"compare": True}, {"batch_size": 1}], ids=str)
def test_only_what_is_not_certain_is_asked_again(
    engine: Engine, settings: dict[str, Any], measure: str
):
    first, second = tries(engine, EXTREME), tries(engine, OFF)
    below = middle(first, measure)
    cascade = to(OFF, below, measure=measure)
    found = list(answered(engine, cascade, **settings))
    assert [one.item.id for one in found] == [str(number) for number in range(COUNT)]
    again = [getattr(one.certainty, measure) < below for one in first]
    assert sum(again) == COUNT // 2
    wanted = [b if more else a for a, b, more in zip(first, second, again, strict=True)]
    assert [one.text for one in found] == [one.text for one in wanted]
    assert [one.tokens.left for one in found] == [one.tokens.left for one in wanted]
    assert [(one.profile, one.escalated) for one in found] == [
        ("off", "rising") if more else ("rising", None) for more in again
    ]
    costs = zip(first, second, again, strict=True)
    assert [one.tokens.average for one in found] == [
        a.tokens.average + (b.tokens.average if more else 0) for a, b, more in costs
    ]


@pytest.mark.parametrize("compare", [False, True])
def test_a_second_try_has_the_same_encoded_image_and_adds_its_seconds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, compare: bool
):
    now, encoded = [0.0], []
    plain = engine.family.encode
    monkeypatch.setattr(
        engine.family, "encode", lambda pixels, *by: encoded.extend(pixels) or plain(pixels, *by)
    )

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(engine, "clock", Ticking(engine.clock.device, clock))
    (once,) = answered(engine, EXTREME, [prepared(0)], compare=compare)
    (off,) = answered(engine, OFF, [prepared(0)], compare=compare)
    encoded.clear()
    (both,) = answered(engine, to(OFF, 1.0), [prepared(0)], compare=compare)
    assert len(encoded) == 1 and both.profile == "off"
    for phase in ("select", "prefill", "decode"):
        spent = getattr(once.seconds, phase) + getattr(off.seconds, phase)
        assert getattr(both.seconds, phase) == pytest.approx(spent)
    assert both.seconds.encode == once.seconds.encode
    phases = ("image", "encode", "select", "prefill", "decode")
    total = sum(getattr(both.seconds, phase) for phase in phases)
    assert both.seconds.total == pytest.approx(total)
    assert both.seconds.first_token == pytest.approx(total - off.seconds.decode)


class Ticking:
    """A clock that goes on by one whenever it is read."""

    def __init__(self, device: torch.device, read: Any):
        self.device, self.read = device, read

    def __call__(self) -> float:
        return self.read()


def test_a_chain_ends_where_an_answer_is_certain(engine: Engine):
    first, second, third = (tries(engine, one) for one in (EXTREME, BALANCED, OFF))
    one, two = middle(first), middle(second)
    chain = to(replace(BALANCED, escalate=Escalate(two, OFF)), one)
    found = list(answered(engine, chain))
    wanted = [
        a if a.certainty.probability >= one else b if b.certainty.probability >= two else c
        for a, b, c in zip(first, second, third, strict=True)
    ]
    assert [one.text for one in found] == [one.text for one in wanted]
    names = [one.profile.replace("rising", "extreme") for one in found]
    assert names == [one.profile for one in wanted]
    assert set(names) == {"extreme", "balanced", "off"}
    assert {one.escalated for one in found} == {None, "rising"}
    last = next(one for one in found if one.profile == "off")
    assert last.tokens.average == pytest.approx(
        sum(one.planned(64, engine.layers) for one in (EXTREME, BALANCED, OFF)), abs=1
    )


def under_cap(flags: list[bool], share: float) -> list[bool]:
    """The rows that may go on, decided one after the other: of n rows at most n shares, up."""
    through: list[bool] = []
    for number, flag in enumerate(flags, 1):
        through.append(flag and sum(through) + 1 <= math.ceil(share * number))
    return through


@pytest.mark.parametrize("settings", [{}, {"batch_size": 3, "compare": True}, {"batch_size": 1}])
@pytest.mark.parametrize("share", [0.4, 0.0, 1.0])
def test_a_cap_counts_in_the_order_of_the_input(
    engine: Engine, settings: dict[str, Any], share: float
):
    first = tries(engine, EXTREME)
    below = middle(first)
    rows = questions()
    rows[5] = prepared(5, Problem("image_missing", "No image."))
    flags = [one.certainty.probability < below for one in first]
    flags[5] = False
    found = list(answered(engine, to(OFF, below, at_most=share), rows, **settings))
    assert [one.item.id for one in found] == [str(number) for number in range(COUNT)]
    assert [one.escalated is not None for one in found] == under_cap(flags, share)
    assert found[5].problem is not None and found[5].escalated is None


def test_a_cap_counts_in_the_order_of_the_input_where_batches_are_compared(engine: Engine):
    many = [prepared(number) for number in range(40)]
    cascade = to(OFF, 1.0, at_most=0.4)
    found = list(answered(engine, cascade, many, compare=True, max_new_tokens=1))
    assert [one.escalated is not None for one in found] == under_cap([True] * 40, 0.4)


def test_a_cap_on_each_step_of_a_chain(engine: Engine):
    chain = to(replace(BALANCED, escalate=Escalate(1.0, OFF, at_most=0.25)), 1.0, at_most=0.75)
    found = list(answered(engine, chain, batch_size=5))
    second = under_cap([True] * COUNT, 0.75)
    third = under_cap(second, 0.25)
    assert [one.profile for one in found] == [
        "off" if c else "balanced" if b else "rising" for b, c in zip(second, third, strict=True)
    ]


def test_a_gate_decides_nothing_before_it_knows_all_earlier_rows():
    gate = Gate(Escalate(0.9, OFF, at_most=0.5))
    rows = [Tried(None, None) for _ in range(4)]  # type: ignore[arg-type]
    assert list(gate.offer(2, rows[2])) == list(gate.offer(1, rows[1])) == []
    assert list(gate.offer(0, None)) == [(rows[1], True), (rows[2], True)]
    assert list(gate.offer(3, rows[3])) == [(rows[3], False)]
    assert list(gate.offer(9, rows[0])) == [] and list(gate.release()) == [(rows[0], True)]


def test_what_does_not_fit_the_second_time_is_told_or_keeps_its_answer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    first = tries(engine, EXTREME)
    plain = engine.prefill

    def scarce(prompts: Any, profile: Profile, **settings: Any) -> Any:
        if profile.name == "off" or len(prompts) > 2:
            raise MemoryError
        return plain(prompts, profile, **settings)

    monkeypatch.setattr(engine, "prefill", scarce)
    found = list(answered(engine, to(OFF, middle(first))))
    kinds = [one.problem and one.problem.kind for one in found]
    assert kinds.count("out_of_memory") == COUNT // 2 == kinds.count(None)
    assert all(one.profile == "off" for one in found if one.problem)
    kept = list(answered(engine, to(OFF, 1.0), fallbacks=(load_profile("aggressive"),)))
    assert [one.text for one in kept] == [one.text for one in first]
    assert {(one.profile, one.escalated) for one in kept} == {("rising", None)}


def test_stopping_asks_again_what_is_in_hand_and_no_other(engine: Engine):
    stopped: list[bool] = []
    many = [prepared(number) for number in range(60)]
    cascade = to(OFF, 1.0, at_most=0.5)
    rows = answered(engine, cascade, many, max_new_tokens=1, stop=lambda: bool(stopped))
    found = [next(rows)]
    stopped.append(True)
    found += rows
    assert len(found) < 60
    assert found[0].profile == "off" and {one.profile for one in found} == {"off", "rising"}


def test_an_answer_that_may_be_withdrawn_is_heard_when_it_is_known(engine: Engine):
    heard: list[str] = []
    (answer,) = answered(engine, to(OFF, 1.0), [prepared(0)], on_text=heard.append)
    assert answer.profile == "off" and heard == [answer.text]
    heard.clear()
    (answer,) = answered(engine, to(OFF, 0.0), [prepared(0)], on_text=heard.append)
    assert answer.profile == "rising" and heard == [answer.text]


class Lengths:
    """Ends each answer after a number of tokens that depends on its question."""

    def end(self, prompt: list[int], answer: list[int]) -> bool:
        return len(answer) >= 1 + sum(prompt) % 7


def test_a_decoder_of_one_batch_at_a_time_is_not_shared_by_two(tiny_checkpoint: Path):
    loaded = load(find(str(tiny_checkpoint)), dtype="float32")
    static = Engine(loaded, StaticDecoder(loaded.model))
    static.stop_strings = Lengths()  # type: ignore[assignment]
    settings = {"max_new_tokens": 8}
    below = middle(list(answered(static, EXTREME, batch_size=1, **settings)))
    found = list(answered(static, to(OFF, below), batch_size=3, **settings))
    alone = list(answered(static, to(OFF, below), batch_size=1, **settings))
    assert len({one.tokens.generated for one in alone}) > 1
    assert [one.problem for one in found] == [None] * COUNT
    assert [(one.text, one.profile) for one in found] == [(one.text, one.profile) for one in alone]


def test_a_comparison_is_that_of_the_cascade(engine: Engine):
    found = list(answered(engine, to(OFF, 1.0), compare=True))
    assert all(one.comparison.agree and one.comparison.full.escalated is None for one in found)
    plans = (OFF, to(OFF, 1.0), EXTREME)
    rows = answer_each(engine, questions(), Request(plans, batch_size=4))
    results = Results([Condition(one) for one in plans])
    for row in rows:
        results.add(row)
    figures = {name: kinds["all"] for name, kinds in results.figures().items()}
    assert list(figures) == ["off", "rising", "extreme"]
    assert figures["rising"]["agreement"] == 1.0 and figures["rising"]["questions"] == COUNT
    assert figures["rising"]["tokens"] == figures["off"]["tokens"] + figures["extreme"]["tokens"]


def test_a_batch_says_who_was_asked_again_and_knows_its_settings(
    tiny_checkpoint: Path, tmp_path: Path
):
    mine = tmp_path / "mine.yaml"
    mine.write_text("structure: {method: grid, keep: 0.1}\nescalate: {below: 1.0, to: off}\n")
    picture(1).save(tmp_path / "1.png")
    file = tmp_path / "questions.jsonl"
    lines = [json.dumps({"image": "1.png", "question": f"{name}?"}) for name in "ab"]
    file.write_text("\n".join(lines))
    out = tmp_path / "answers.jsonl"
    command = ("batch", file, "-m", tiny_checkpoint, "-p", mine, "--max-new-tokens", "2")
    done = sts(*command, "--out", out, "--limit", 1)
    assert done.code == 0 and "\nescalated: 1 of 1 (100.0%) to off\n" in done.err
    (row,) = read_rows(out)
    assert (row["profile"], row["escalated"]) == ("off", "mine")
    assert set(row["certainty"]) == {"probability", "margin"}
    mine.write_text(mine.read_text().replace("below: 1.0", "below: 0.5"))
    refused = sts(*command, "--out", out)
    assert refused.code == 2 and "answers of another profile: escalate" in refused.err
    table = tmp_path / "answers.csv"
    assert sts(*command, "--out", table).code == 0
    assert ",escalated,certainty_probability,certainty_margin," in table.read_text()
    again = sts("batch", table, "-m", tiny_checkpoint, "--max-new-tokens", "1", "--dry-run")
    assert "rows: 2, of which 2 can be asked" in again.out


def test_a_threshold_is_the_lowest_that_reaches_the_target():
    certainties = [0.9, 0.2, 0.6, 0.4, 0.8]
    agree = [True, False, False, True, True]
    assert threshold(certainties, agree, 0.6) == 0.0
    assert threshold(certainties, agree, 0.8) == pytest.approx(0.3)  # 0.2 is asked again
    assert threshold(certainties, agree, 1.0) == pytest.approx(0.7)  # 0.2, 0.4 and 0.6 are
    again = [True, True, True, False, True]  # the next profile loses 0.4, wins 0.6
    assert threshold(certainties, agree, 0.8, again) == pytest.approx(0.3)
    assert threshold(certainties, agree, 1.0, again) is None
    assert threshold([0.5, 0.5], [False, True], 1.0) == pytest.approx(0.75)  # both are
    assert threshold([1.0, 0.5], [False, True], 1.0) is None
