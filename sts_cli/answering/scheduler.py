"""Questions to answers: batches about the same images or of similar length, in input order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil

from sts_cli.answering.agreement import compared
from sts_cli.answering.asking import Asker
from sts_cli.answering.batches import Batches
from sts_cli.answering.cascade import capped
from sts_cli.answering.features import FeatureCache
from sts_cli.answering.fitting import fitting_rows, most_rows
from sts_cli.answering.guiding import Guide
from sts_cli.answering.questions import Question, question_of
from sts_cli.answering.request import Request
from sts_cli.engine.engine import Engine
from sts_cli.inputs.feed import Feed
from sts_cli.inputs.images import Prepared
from sts_cli.machine.hardware import free_memory
from sts_cli.records import Answer

WORKERS = 2  # threads that preprocess images while the engine computes
WINDOW = 4  # batches of questions to choose rows of similar length from
GROW_AFTER = 16  # batches without running out of memory, before the batch grows back

ADMIT = 0.5  # of the places are filled at once, at least (benchmarks/throughput.py)
HELD = 1000  # answers that wait for an older one, before no more questions are admitted


def answer_all(
    engine: Engine,
    prepared: Iterable[Prepared],
    request: Request,
    *,
    on_text: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Answer]:
    """One Answer for each prepared item, in input order, as soon as those before it are known.

    Where the request compares, each is answered under `off`, too, from the same encoded images, in
    turn. See `answer_each` for the rest.
    """
    every = request.beside_off() if request.compare else request
    for answers in answer_each(engine, prepared, every, on_text=on_text, stop=stop):
        yield compared(*answers) if request.compare else answers[0]


def answer_each(
    engine: Engine,
    prepared: Iterable[Prepared],
    request: Request,
    *,
    on_text: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Answer, ...]]:
    """For each prepared item, in input order, its Answer under each of the request's profiles.

    A batch is the oldest question that waits, those about the same images and those nearest to it
    in length; its images are encoded once for all profiles. Under one profile, waiting questions
    take the places of those that are done, while the others are decoded; a question's seconds are
    then its own share. Without a batch size it has as many rows such as the first as fit into
    memory, and gain something. What a profile escalates is asked again under the next one, in
    batches of such questions. A batch that runs out of memory is halved; one question that does
    tries the fallbacks instead of the first profile, then becomes a problem. Of a batch's first
    question under the first profile, `on_text` hears the text while it is generated, or at its end
    if it may escalate. When `stop` becomes true, the questions in hand are the last; answers that
    waited for older ones come out. Raises ProfileError before the first item for a profile that the
    model cannot honour.
    """
    for one in (*request.profiles, *request.fallbacks):
        engine.check(one)
    largest = request.batch_size or most_rows(engine.clock.device)
    size, calm, next_out = request.batch_size, 0, 0
    waiting: list[Question] = []
    done: dict[int, tuple[Answer, ...]] = {}
    pool = ThreadPoolExecutor(WORKERS)
    images = FeatureCache(engine, pool, (*request.profiles, *request.fallbacks))
    guide = None
    if engine.guide is not None and any(one.guide for one in request.profiles):
        guide = Guide(engine.guide, pool, request.max_new_tokens)
    batches = Batches(Asker(engine, images, request, on_text, guide))
    cascade = batches.cascade
    in_order = not batches.continuous and capped(request.profiles)  # which rows may escalate
    with pool, Feed(questions(prepared, images, guide), largest) as feed:
        while (busy := len(batches.in_hand)) or cascade.open or not stop():
            wait = not waiting and not busy and not cascade.open
            for question in feed.take(WINDOW * largest - len(waiting), wait, stop):
                if question.item.problem is None:
                    waiting.append(question)
                else:
                    done.update(batches.refuse(question, question.item.problem))
            if waiting and size is None:
                free, first = free_memory(engine.clock.device), waiting[0].pictures
                size = largest = fitting_rows(engine, request, first, free)
            full = len(done) >= HELD or cascade.held >= WINDOW * (size or 1)
            closed = busy > 0 and (full or not batches.open)
            choose = the_first if in_order else admitted
            batch = [] if stop() or closed else choose(waiting, busy, size or 1)
            if batch or busy:
                waiting = [one for one in waiting if one not in batch]
                answers, fitted = batches.advance(batch)
                done.update(answers)
                calm += bool(batch)
                if fitted is not None:
                    size, calm = fitted, 0
                elif size is not None and calm >= GROW_AFTER and size < largest:
                    size, calm = min(largest, size * 2), 0
            if cascade.open and batches.due(size or 1, len(done), not (batch or busy)):
                done.update(batches.escalate(size or 1))
            while next_out in done:
                yield done.pop(next_out)
                next_out += 1
            if not (waiting or batches.in_hand or cascade.open) and feed.finished:
                break
    yield from (done[number] for number in sorted(done))
    if feed.error is not None:
        raise feed.error


def questions(
    prepared: Iterable[Prepared], images: FeatureCache, guide: Guide | None
) -> Iterator[Question]:
    """The items as questions, no more of them ahead than the preprocessing threads keep up with."""
    for number, ready in enumerate(prepared):
        yield question_of(number, ready, images, None if guide is None else guide.images)


def admitted(waiting: Sequence[Question], busy: int, size: int) -> list[Question]:
    """The questions to prefill now, beside `busy` ones that are being decoded in `size` places.

    None while they would be few: a prefill of one row at a time is slow, and the others wait.
    """
    if not waiting or (busy and not waiting[0].ready):
        return []
    least = min(len(waiting), ceil(ADMIT * size))
    batch = similar(waiting, size - busy) if size - busy >= least else []
    return batch if not busy or len(batch) >= least else []


def the_first(waiting: Sequence[Question], busy: int, size: int) -> list[Question]:
    """The questions to answer now, in the order of the input."""
    return list(waiting[:size])


def similar(waiting: Sequence[Question], size: int) -> list[Question]:
    """The oldest question and the ready ones nearest to it in length, in input order.

    Questions about the same images come together, as near as the nearest of them: they share what
    their prompts begin with.
    """
    oldest = waiting[0]
    others = [one for one in waiting[1:] if one.ready]

    def distance(one: Question) -> int:
        images = len(one.pictures) - len(oldest.pictures)
        text = len(one.item.question) - len(oldest.item.question)
        return abs(images) * 1000 + abs(text)

    order = sorted(others, key=distance)
    groups = {oldest.pictures: list[Question]()}
    for one in order:
        groups.setdefault(one.pictures, []).append(one)
    together = [one for group in groups.values() for one in group]
    return sorted([oldest, *together[: size - 1]], key=lambda one: one.number)
