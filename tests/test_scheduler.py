"""Questions to answers: order, sharing, batches, and failures that stay with their row."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import checkpoints
import pytest
import torch
from PIL import Image

from sts_cli.answering import features, fitting, scheduler
from sts_cli.answering.questions import question_of
from sts_cli.answering.request import Request
from sts_cli.answering.scheduler import answer_all as answer_request
from sts_cli.answering.scheduler import answer_each
from sts_cli.checkpoints.sources import find
from sts_cli.decoding.torch import TorchCache
from sts_cli.engine.clock import Clock
from sts_cli.engine.engine import Engine
from sts_cli.engine.session import Session
from sts_cli.errors import ProfileError
from sts_cli.inputs.images import Prepared
from sts_cli.loading.model import load
from sts_cli.profile import Cut, Narrowing, Profile
from sts_cli.profile_files import load_profile
from sts_cli.records import Answer, Item, Problem

OFF, AGGRESSIVE = load_profile("off"), load_profile("aggressive")


def answer_all(
    engine: Engine, rows: Iterable[Prepared], profile: Profile, **settings: Any
) -> Iterator[Answer]:
    """Answers under one profile; the settings are those of a Request, or of the call."""
    call = {name: settings.pop(name) for name in ("on_text", "stop") if name in settings}
    return answer_request(engine, rows, Request((profile,), **settings), **call)


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine(load(find(str(tiny_checkpoint)), dtype="float32"))


def picture(seed: int) -> Image.Image:
    noise = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (40, 60, 3), generator=noise, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def prepared(number: int, image: int, question: str = "what is on the sign?") -> Prepared:
    item = Item(id=str(number), images=(f"{image}.png",), question=question)
    return Prepared(item, (picture(image),), (str(image),), 0.0)


def closed() -> Image.Image:
    """An image that no processor can read any more."""
    image = picture(1)
    image.close()
    return image


def questions() -> list[Prepared]:
    """Nine questions of very different lengths about three images."""
    return [
        prepared(number, number % 3, "what is on the sign? " * (1 + 5 * (number % 4)))
        for number in range(9)
    ]


def test_batches_answer_as_single_questions_do_and_keep_the_order(engine: Engine):
    alone = list(answer_all(engine, questions(), AGGRESSIVE, batch_size=1, max_new_tokens=4))
    batched = list(answer_all(engine, questions(), AGGRESSIVE, batch_size=4, max_new_tokens=4))
    assert [answer.item.id for answer in batched] == [str(number) for number in range(9)]
    assert [answer.text for answer in batched] == [answer.text for answer in alone]
    assert [answer.tokens for answer in batched] == [answer.tokens for answer in alone]
    assert max(answer.rows for answer in batched) == 4


@pytest.mark.parametrize("compare", [False, True])
def test_a_row_may_have_its_own_limit_of_new_tokens(engine: Engine, compare: bool):
    """Fewer than the run's and more, in one batch; the others' answers are as long as before."""
    whole = list(answer_all(engine, questions(), AGGRESSIVE, batch_size=4, max_new_tokens=9))
    limits = [2, None, 9, None, 1, 5, None, 3, 2]
    rows = [
        replace(row, item=replace(row.item, max_new_tokens=limit))
        for row, limit in zip(questions(), limits, strict=True)
    ]
    found = list(
        answer_all(engine, rows, AGGRESSIVE, batch_size=4, max_new_tokens=4, compare=compare)
    )
    assert {answer.finish for answer in whole} == {"length"}
    assert [one.tokens.generated for one in found] == [limit or 4 for limit in limits]
    assert [one.text for one in found if one.item.max_new_tokens == 9] == [whole[2].text]
    full = [one.comparison.full for one in found if one.comparison]
    assert len(full) == len(found) * compare
    assert all(one.tokens.generated == (one.item.max_new_tokens or 4) for one in full)


def test_an_image_that_questions_share_is_encoded_once(engine: Engine):
    seen = []
    family = engine.family
    plain = family.encode
    family.encode = lambda pixels, *more: seen.extend(pixels) or plain(pixels, *more)  # type: ignore
    try:
        answers = list(answer_all(engine, questions(), OFF, batch_size=2, max_new_tokens=1))
    finally:
        del family.encode
    assert len(seen) == 3
    assert [answer.seconds.encode == 0 for answer in answers].count(False) >= 3
    assert answers[-1].seconds.encode == 0


def test_each_profile_sees_the_images_that_its_own_encoder_made(engine: Engine):
    narrow = replace(OFF, name="narrow", encoder=Narrowing("likeness", 0.5, 0.5))
    seen: list[int] = []
    family = engine.family
    plain = family.encode
    family.encode = lambda pixels, *more: seen.append(len(pixels)) or plain(pixels, *more)  # type: ignore
    try:
        request = Request((OFF, narrow, AGGRESSIVE), batch_size=9, max_new_tokens=6)
        together = list(answer_each(engine, questions(), request))
    finally:
        del family.encode
    assert sum(seen) == 2 * 3  # `off` and `aggressive` share theirs
    for number, profile in enumerate(request.profiles):
        alone = answer_all(engine, questions(), profile, max_new_tokens=6)
        assert [row[number].text for row in together] == [one.text for one in alone]
    assert [row[0].text for row in together] != [row[1].text for row in together]


def test_questions_about_the_same_image_come_into_one_batch(engine: Engine):
    """Then those about the image with the question nearest in length; all in input order."""
    lengths = (10, 40, 20, 90, 10, 30, 80, 10, 70, 25)
    rows = [prepared(n, n % 3, "x" * length) for n, length in enumerate(lengths)]
    with ThreadPoolExecutor(1) as pool:
        known = features.FeatureCache(engine, pool)
        waiting = [question_of(number, row, known) for number, row in enumerate(rows)]
        assert all(one.pictures[0].pixels for one in waiting)

    def numbers(size: int) -> list[int]:
        return [one.number for one in scheduler.similar(waiting, size)]

    assert numbers(1) == [0]
    assert numbers(3) == [0, 6, 9]
    assert numbers(4) == [0, 3, 6, 9]
    assert numbers(6) == [0, 3, 4, 6, 7, 9]
    assert numbers(7) == [0, 1, 3, 4, 6, 7, 9]


def test_a_waiting_question_does_not_hold_its_decoded_image(engine: Engine):
    ready = prepared(0, 0)
    decoded = weakref.ref(ready.images[0])
    with ThreadPoolExecutor(1) as pool:
        question = question_of(0, ready, features.FeatureCache(engine, pool))
    del ready
    assert question.ready and question.pictures[0].pixels.size == (60, 40)
    assert decoded() is None


def test_remembered_images_stay_within_their_memory_pixels_included(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(features, "REMEMBERED_BYTES", 500_000)  # three images of 112 x 112
    with ThreadPoolExecutor(1) as pool:
        known = features.FeatureCache(engine, pool)
        pictures = [known.expect(str(seed), picture(seed), True)[0] for seed in range(8)]
        for one in pictures:
            known.encode([one])
        order = (5, 6, 7, 0, 1)
        fresh = [known.expect(str(seed), picture(seed), True)[1] for seed in order]
    assert all(one.nbytes > 112 * 112 * 3 * 4 for one in pictures)
    assert fresh == [False] * 3 + [True] * 2


def test_what_was_asked_for_last_is_remembered_longest(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(features, "REMEMBERED_BYTES", 500_000)  # three images of 112 x 112
    with ThreadPoolExecutor(1) as pool:
        known = features.FeatureCache(engine, pool)
        for seed in (0, 1, 2):
            known.encode([known.expect(str(seed), picture(seed), True)[0]])
        known.expect("0", picture(0), True)  # asked for again: now 1 is the oldest
        known.encode([known.expect("3", picture(3), True)[0]])
        fresh = {seed: known.expect(str(seed), picture(seed), True)[1] for seed in (0, 2, 3, 1)}
    assert fresh == {0: False, 2: False, 3: False, 1: True}


def test_an_image_alone_and_one_among_others_are_two_pictures(tmp_path: Path):
    """LLaVA-OneVision cuts only an image that is alone in its question into tiles."""
    folder = checkpoints.write("llava_onevision", tmp_path / "model")
    onevision = Engine(load(find(str(folder)), dtype="float32"))
    both = Item(id="1", images=("0.png", "1.png"), question="which is larger?")
    rows = [prepared(0, 0), Prepared(both, (picture(0), picture(1)), ("0", "1"), 0.0)]
    together = list(answer_all(onevision, rows, OFF, batch_size=1, max_new_tokens=3))
    apart = [next(answer_all(onevision, [row], OFF, max_new_tokens=3)) for row in rows]
    assert [one.tokens for one in together] == [one.tokens for one in apart]
    assert [one.text for one in together] == [one.text for one in apart]
    assert together[1].tokens.visual < 2 * together[0].tokens.visual


def test_an_image_that_the_processor_refuses_is_told_and_let_go(tmp_path: Path):
    """Qwen2-VL takes no picture that is more than 200 times as long as it is high."""
    folder = checkpoints.write("qwen2_vl", tmp_path / "model")
    qwen = Engine(load(find(str(folder)), dtype="float32"))
    banner = Image.new("RGB", (2670, 10))
    held = weakref.ref(banner)
    item = Item(id="banner", images=("banner.png",), question="what?")
    with ThreadPoolExecutor(1) as pool:
        known = features.FeatureCache(qwen, pool)
        question = question_of(0, Prepared(item, (banner,), ("b",), 0.0), known)
        del banner
        assert question.pictures[0].refused and question.pictures[0].nbytes > 0
        assert held() is None
    rows = [prepared(0, 0), Prepared(item, (Image.new("RGB", (2670, 10)),), ("b",), 0.0)]
    good, bad = answer_all(qwen, rows, OFF, max_new_tokens=1)
    assert good.problem is None and bad.problem.kind == "image_unreadable"
    assert "image of 2670 x 10 pixels: absolute aspect ratio must be smaller" in bad.problem.message


def test_a_retry_has_the_memory_of_the_batch_that_failed(engine: Engine):
    """The failed batch's tensors are gone once its rows are tried again, in halves and alone."""
    plain, held, alive = engine.prefill, list[weakref.ref](), list[bool]()

    def scarce(prompts, profile, **settings):
        alive.extend(one() is not None for one in held)
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        if len(prompts) > 1 or profile.name == "off":
            raise torch.OutOfMemoryError(f"no room for {large.shape}")
        return plain(prompts, profile, **settings)

    engine.prefill = scarce  # type: ignore
    try:
        rows = [prepared(0, 0), prepared(1, 1)]
        answers = list(
            answer_all(engine, rows, OFF, batch_size=2, max_new_tokens=1, fallbacks=[AGGRESSIVE])
        )
    finally:
        del engine.prefill
    assert [answer.profile for answer in answers] == ["aggressive"] * 2
    assert len(alive) >= 6 and not any(alive)


def test_a_batch_grows_back_when_memory_is_there_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduler, "GROW_AFTER", 2)
    sizes: list[int] = []
    plain = engine.prefill

    def scarce_at_first(prompts, profile, **settings):
        sizes.append(len(prompts))
        if sizes.count(2) == 1 and sizes[-1] == 2:
            raise MemoryError
        return plain(prompts, profile, **settings)

    engine.prefill = scarce_at_first  # type: ignore
    try:
        rows = [prepared(number, 0) for number in range(24)]
        assert len(list(answer_all(engine, rows, OFF, batch_size=2, max_new_tokens=1))) == 24
    finally:
        del engine.prefill
    assert sizes.count(2) > 2  # after it had shrunk to 1


def test_a_row_that_could_not_be_read_is_an_answer_with_its_problem(engine: Engine):
    bad = Item(id="bad", problem=Problem("image_missing", "no such file"))
    rows = [prepared(0, 0), Prepared(bad, (), (), 0.0), prepared(2, 1)]
    answers = list(answer_all(engine, rows, OFF, max_new_tokens=2))
    assert [answer.item.id for answer in answers] == ["0", "bad", "2"]
    assert answers[1].problem == bad.problem and answers[1].text is None
    assert answers[0].problem is None and answers[2].problem is None


def test_a_failing_row_does_not_take_its_batch_with_it(engine: Engine):
    """Whatever an image does to its processor, the rows beside it get their answers."""
    rows = [prepared(0, 0), prepared(1, 1), prepared(2, 2)]
    broken = Prepared(rows[1].item, (closed(),), ("x",), 0.0)
    answers = list(answer_all(engine, [rows[0], broken, rows[2]], OFF, max_new_tokens=2))
    assert [answer.problem and answer.problem.kind for answer in answers] == [
        None,
        "image_unreadable",
        None,
    ]


def test_compare_gives_both_answers_and_off_agrees_with_itself(engine: Engine):
    (answer,) = answer_all(engine, [prepared(0, 0)], OFF, compare=True, max_new_tokens=3)
    assert answer.comparison.agree and answer.comparison.similarity == 1.0
    assert answer.comparison.full.text == answer.text
    (pruned,) = answer_all(engine, [prepared(0, 0)], AGGRESSIVE, compare=True, max_new_tokens=3)
    assert pruned.tokens.average < pruned.comparison.full.tokens.average == 64
    assert pruned.comparison.full.text == answer.text
    assert pruned.comparison.full.profile == "off"


def test_text_streams_as_it_is_answered(engine: Engine):
    pieces: list[str] = []
    (answer,) = answer_all(
        engine, [prepared(0, 0)], AGGRESSIVE, max_new_tokens=6, on_text=pieces.append
    )
    assert "".join(pieces).strip() == answer.text
    assert len(pieces) > 1


def test_what_was_kept_is_told_with_its_places(engine: Engine):
    """On request, for every row, every image of it, and every cut."""
    two = Item(id="1", images=("0.png", "1.png"), question="which is larger?")
    rows = [prepared(0, 0), Prepared(two, (picture(0), picture(1)), ("0", "1"), 0.0)]
    for answer in answer_all(engine, rows, AGGRESSIVE, places=True, batch_size=2):
        images = answer.kept
        assert images is not None and len(images) == len(answer.item.images)
        sizes = [sum(len(one.every) for one in images)]
        sizes += [sum(len(one.left[cut]) for one in images) for cut in range(2)]
        assert sizes == [answer.tokens.visual, *answer.tokens.left]
        for one in images:
            assert set(one.left[1]) <= set(one.left[0]) <= set(one.every)
    (plain,) = answer_all(engine, [prepared(0, 0)], AGGRESSIVE)
    assert plain.kept is None


def test_stopping_finishes_the_batch_in_hand_and_no_other(engine: Engine):
    asked: list[bool] = []
    rows = answer_all(
        engine, questions(), OFF, batch_size=2, max_new_tokens=1, stop=lambda: bool(asked)
    )
    next(rows)
    asked.append(True)
    rest = list(rows)
    assert len(rest) < 8


class Lengths:
    """Ends each answer after a number of tokens that depends on its question."""

    def end(self, prompt: list[int], answer: list[int]) -> bool:
        return len(answer) >= 1 + sum(prompt) % 7


@pytest.fixture
def uneven(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Answers of unequal length. Of each admission, the rows it met and those it brought."""
    admissions: list[tuple[int, int]] = []
    plain = Session.admit

    def admit(session: Session, prompts: Any) -> Any:
        admissions.append((len(session.rows), len(prompts)))
        return plain(session, prompts)

    monkeypatch.setattr(engine, "stop_strings", Lengths())
    monkeypatch.setattr(Session, "admit", admit)
    return admissions


def test_a_finished_row_is_replaced_while_others_are_decoded(
    engine: Engine, uneven: list[tuple[int, int]]
):
    alone = [next(answer_all(engine, [one], AGGRESSIVE, places=True)) for one in questions()]
    uneven.clear()
    found = list(answer_all(engine, questions(), AGGRESSIVE, batch_size=4, places=True))
    assert [answer.item.id for answer in found] == [str(number) for number in range(9)]
    assert [answer.text for answer in found] == [answer.text for answer in alone]
    assert [answer.kept for answer in found] == [answer.kept for answer in alone]
    assert [answer.tokens for answer in found] == [answer.tokens for answer in alone]
    assert len({answer.tokens.generated for answer in found}) > 2
    assert any(decoding for decoding, _ in uneven)
    assert sum(new for _, new in uneven) == 9 and max(map(sum, uneven)) <= 4


@pytest.mark.parametrize(
    ("error", "size"), [(MemoryError(), 2), (RuntimeError("a bad row"), 4)], ids=["memory", "other"]
)
def test_rows_that_a_failing_step_loses_are_answered_again(
    engine: Engine, uneven: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, error, size: int
):
    alone = [answer.text for answer in answer_all(engine, questions(), OFF, batch_size=1)]
    uneven.clear()
    plain, steps = engine.step, list[int]()

    def scarce(ids: torch.Tensor, *given: Any) -> torch.Tensor:
        steps.append(len(ids))
        if len(ids) == 4 and steps.count(4) == 1:
            raise error
        return plain(ids, *given)

    monkeypatch.setattr(engine, "step", scarce)
    found = list(answer_all(engine, questions(), OFF, batch_size=4))
    assert [answer.text for answer in found] == alone
    assert all(answer.problem is None for answer in found)
    assert max(steps[steps.index(4) + 1 :]) <= size


def test_stopping_finishes_the_rows_in_hand_and_admits_no_other(
    engine: Engine, uneven: list[tuple[int, int]]
):
    asked: list[bool] = []
    many = [prepared(number, 0, f"what is on sign {number}?") for number in range(40)]
    rows = answer_all(engine, many, OFF, batch_size=4, stop=lambda: bool(asked))
    next(rows)  # after 7 steps of 4 rows, at most
    asked.append(True)
    before = sum(new for _, new in uneven)
    assert 1 + len(list(rows)) == before
    assert before == sum(new for _, new in uneven) < 40


def test_a_rows_seconds_are_its_share_of_what_it_took_part_in(
    engine: Engine, uneven: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
):
    """By a clock that moves by one at each look: they sum to what the prefills and steps took."""
    joins, join = [], TorchCache.join
    monkeypatch.setattr(TorchCache, "join", lambda *given: joins.append(1) or join(*given))
    ticks, steps, plain = itertools.count(), [], engine.step
    device = engine.clock.device
    monkeypatch.setattr(engine, "clock", Clock(device))
    monkeypatch.setattr(Clock, "__call__", lambda clock: float(next(ticks)))
    monkeypatch.setattr(engine, "step", lambda *given: steps.append(1) or plain(*given))
    found = list(answer_all(engine, questions(), OFF, batch_size=4))
    spent = sum(answer.seconds.prefill + answer.seconds.decode for answer in found)
    assert spent == pytest.approx(3 * len(uneven) + len(joins) + len(steps))
    encoded = sum(answer.seconds.encode for answer in found)
    assert 0 < encoded <= len(uneven) and encoded == pytest.approx(round(encoded))


def test_answers_come_before_a_slow_source_has_more(engine: Engine):
    """A pipe that waits for its next line does not hold back the answer to the last one."""
    answered = Event()

    def source() -> Iterator[Prepared]:
        yield prepared(0, 0)
        assert answered.wait(60)  # the second question exists only once the first is answered
        yield prepared(1, 1)

    rows = answer_all(engine, source(), OFF, batch_size=4, max_new_tokens=1)
    assert next(rows).item.id == "0"
    answered.set()
    assert [answer.item.id for answer in rows] == ["1"]


def test_what_reading_the_source_raises_comes_after_the_answers_before_it(engine: Engine):
    def source() -> Iterator[Prepared]:
        yield prepared(0, 0)
        raise OSError("the disk went away")

    answers = answer_all(engine, source(), OFF, max_new_tokens=1)
    assert next(answers).item.id == "0"
    with pytest.raises(OSError, match="went away"):
        next(answers)


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(engine: Engine):
    sizes: list[int] = []
    plain = engine.prefill

    def scarce(prompts, profile, **settings):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise MemoryError
        return plain(prompts, profile, **settings)

    engine.prefill = scarce  # type: ignore
    try:
        answers = list(answer_all(engine, questions(), OFF, batch_size=8, max_new_tokens=1))
    finally:
        del engine.prefill
    assert [answer.item.id for answer in answers] == [str(number) for number in range(9)]
    assert all(answer.problem is None for answer in answers)
    assert sizes.count(8) <= 1  # it learned


def test_a_batch_has_as_many_rows_as_fit_into_the_memory_that_is_free(engine: Engine):
    with ThreadPoolExecutor(1) as pool:
        pictures = [features.FeatureCache(engine, pool).expect("0", picture(0), True)[0]]

    def rows(free: int | None, *profiles: Profile) -> int:
        request = Request(profiles, max_new_tokens=8)
        return fitting.fitting_rows(engine, request, pictures, free)

    most = fitting.most_rows(engine.clock.device)
    assert [rows(0, OFF), rows(1 << 40, OFF), rows(None, OFF)] == [1, most, most]
    pixels = pictures[0].pixels
    values = sum(tensor.numel() for tensor in pixels.inputs.values())
    config = engine.family.model.get_decoder().config
    one = 4 * fitting.row_values(config, OFF, pixels.count, values, 8)  # bytes, in float32
    cache = 2 * engine.layers * config.num_key_value_heads * config.head_dim * pixels.count
    assert one > 4 * cache
    for count in range(1, most + 1):
        assert rows(int(one * (count + 0.5) / fitting.SHARE), OFF) == count
        assert rows(int(one * (count + 0.5) / fitting.SHARE), AGGRESSIVE, OFF) == count
    large = fitting.choosing_bytes(pixels.count) + one * 1.5
    assert rows(int(large / fitting.SHARE), AGGRESSIVE, OFF) == 1
    assert rows(int(large / fitting.SHARE) + int(one / fitting.SHARE), AGGRESSIVE, OFF) == 2
    assert fitting.choosing_bytes(8192) > 4 * 8192 * 8192  # one matrix at least
    assert fitting.row_values(config, AGGRESSIVE, 576, 0, 8) < (
        fitting.row_values(config, OFF, 576, 0, 8)
    )


def test_a_first_image_that_cannot_be_preprocessed_still_gets_its_own_problem(engine: Engine):
    rows = [prepared(0, 0), prepared(1, 1)]
    broken = Prepared(rows[0].item, (closed(),), ("x",), 0.0)
    first, second = answer_all(engine, [broken, rows[1]], OFF, max_new_tokens=1)
    assert first.problem.kind == "image_unreadable" and second.problem is None


def test_one_question_too_large_tries_the_fallbacks_and_says_which(engine: Engine):
    plain = engine.prefill

    def scarce(prompts, profile, **settings):
        if profile.name == "off":
            raise MemoryError
        return plain(prompts, profile, **settings)

    engine.prefill = scarce  # type: ignore
    try:
        (failed,) = answer_all(engine, [prepared(0, 0)], OFF, max_new_tokens=1)
        (saved,) = answer_all(
            engine, [prepared(0, 0)], OFF, max_new_tokens=1, fallbacks=[AGGRESSIVE]
        )
    finally:
        del engine.prefill
    assert failed.problem.kind == "out_of_memory"
    assert saved.problem is None and saved.profile == "aggressive"


def test_a_profile_that_the_model_cannot_honour_is_refused_before_anything_runs(engine: Engine):
    late = Profile("late", "", (Cut("grid", 0.5), Cut("instruction", 0.1, 0.99)))
    with pytest.raises(ProfileError, match="depth"):
        next(answer_all(engine, questions(), late))


def test_what_was_chosen_of_an_image_counts_for_the_same_cut_only(engine: Engine):
    """One run may ask about an image under several profiles of the same method."""
    cuts = [Cut("repulsion", 8), Cut("repulsion", 8, 0.0, {"spatial": 0.0}), Cut("repulsion", 20)]
    plans = [Profile(f"p{number}", "", (cut,)) for number, cut in enumerate(cuts)]
    request = Request(tuple(plans), max_new_tokens=1, places=True)
    (answers,) = answer_each(engine, [prepared(0, 0)], request)
    alone = [
        next(answer_request(engine, [prepared(0, 0)], replace(request, profiles=(plan,))))
        for plan in plans
    ]
    assert [one.kept for one in answers] == [one.kept for one in alone]
    assert answers[0].kept != answers[1].kept


def test_pixels_that_no_question_came_to_use_stay_within_the_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """A question whose other image is refused leaves the pixels of the good one behind."""
    monkeypatch.setattr(features, "REMEMBERED_BYTES", 500_000)  # three images of 112 x 112
    with ThreadPoolExecutor(1) as pool:
        known = features.FeatureCache(engine, pool)
        held = []
        for seed in range(12):
            picture_seen, _ = known.expect(str(seed), picture(seed), True)
            held.append(weakref.ref(picture_seen.pixels))
            del picture_seen
        known.expect("last", picture(99), True)
        assert sum(one() is not None for one in held) <= 4
