"""The decoder with a cache of fixed size: memory stays, nothing waits, graphs are used again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from replaying import Recorder
from test_parity import BOTH, NEW, OFF, SIZED, Subject
from torch import Tensor

from benchmarks.synchronisations import WAITING, counted
from sts_cli.decoding.graphs import MOST, Graphs
from sts_cli.decoding.masks import attention_mask
from sts_cli.decoding.static import StaticDecoder
from sts_cli.decoding.static_cache import Buffers, Held, StaticCache
from sts_cli.decoding.tokens import Keys, Tokens, text_tokens
from sts_cli.decoding.torch import TorchDecoder
from sts_cli.engine.choosing_images import Choices
from sts_cli.engine.engine import Engine, decoder_for
from sts_cli.profile import Profile


class Counting:
    """Captures functions as themselves, and counts captures and runs."""

    def __init__(self) -> None:
        self.captures = self.runs = 0

    def __call__(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.captures += 1

        def replay() -> Tensor:
            self.runs += 1
            return function()

        return replay


class Remembering(StaticDecoder):
    """Remembers where the tensors of each step lie, and of what shape they are."""

    def __init__(self, model: Any):
        self.counting = Counting()
        super().__init__(model, lambda: self.counting)
        self.steps: list[list[tuple[int, torch.Size]]] = []

    def step(self, tokens: Tokens, spans: Sequence[range], cache: StaticCache) -> Tensor:
        logits = super().step(tokens, spans, cache)
        fixed = [*cache.spread(tokens), *(buffer for pair in cache.pairs for buffer in pair or ())]
        for held in cache.held:
            assert held is not None
            fixed += [held.place, held.real, *([] if held.log_size is None else [held.log_size])]
        self.steps.append([(tensor.data_ptr(), tensor.shape) for tensor in fixed])
        return logits


def engine_with(make: Callable[[Any], Any]) -> tuple[Subject, Engine]:
    subject = Subject("llava")
    return subject, Engine(subject.loaded, make(subject.model))


@pytest.mark.parametrize("profile", [OFF, BOTH, SIZED], ids=lambda profile: profile.name)
def test_nothing_moves_or_changes_its_shape_between_steps(profile: Profile):
    subject, engine = engine_with(Remembering)
    engine.ends = frozenset()
    for _ in range(2):
        engine.generate(subject.prompts((0, 1, 2)), profile, max_new_tokens=NEW)
    steps = engine.decoder.steps
    assert len(steps) == 2 * (NEW - 1)
    assert all(step == steps[0] for step in steps)
    assert (engine.decoder.counting.captures, engine.decoder.counting.runs) == (1, len(steps))


@pytest.mark.parametrize("profile", [OFF, SIZED], ids=lambda profile: profile.name)
def test_no_step_waits_for_the_device(profile: Profile):
    """Counted as PyTorch's profiler counts on a CPU, which leaves out the chosen tokens."""
    subject, engine = engine_with(StaticDecoder)
    prompts = subject.prompts((0, 1, 2))
    waits = counted(lambda: engine.generate(prompts, profile, max_new_tokens=NEW))
    assert waits == dict.fromkeys(WAITING, 0)


def test_a_row_with_a_limit_of_its_own_has_room_for_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sts_cli.decoding.static_cache.BUCKET", 1)
    subject, engine = engine_with(StaticDecoder)
    engine.ends = frozenset()
    plain = subject.prompts((0, 1))
    prompts = [replace(plain[0], limit=NEW + 5), plain[1]]
    found = engine.generate(prompts, BOTH, max_new_tokens=NEW)
    whole = engine.generate(plain, BOTH, max_new_tokens=NEW + 5)
    assert found[0].ids == whole[0].ids and found[1].ids == whole[1].ids[:NEW]


def test_layers_on_both_sides_of_a_cut_have_slots_of_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sts_cli.decoding.static_cache.BUCKET", 4)
    subject = Subject("llava", decoder="static")
    with torch.inference_mode():
        state = subject.engine.prefill(subject.prompts((0, 1)), BOTH, NEW, Choices(), False)
    slots = [held.real.shape[1] for held in state.cache.held]
    lengths = [held.length for held in state.cache.held]
    assert slots[0] > slots[-1] and lengths[0] > lengths[-1]
    assert slots == [-(-(length + NEW) // 4) * 4 for length in lengths]


def test_rows_are_compacted_once_half_of_them_have_left():
    decoder, cache = filled(rows=7)
    kept = [(6, 5, 3, 2, 1, 0), (0, 1, 2, 4, 5), (4, 3, 2), (0, 1, 2), (2,)]
    slots = []
    originals = list(range(7))
    for rows in kept:
        cache.keep(torch.tensor(rows))
        originals = [originals[row] for row in rows]
        slots.append(cache.rows)
        keys = cache.pairs[0][0]
        assert keys.shape[0] == cache.held[0].real.shape[0] == cache.rows
        assert keys[cache.live, 0, 0, 0].tolist() == originals
    assert slots == [7, 7, 3, 3, 1]


def filled(rows: int) -> tuple[StaticDecoder, StaticCache]:
    """A cache of one prompt token in each row, whose key is the number of its row."""
    decoder = StaticDecoder(Subject("llava").model)
    cache = decoder.cache(rows, NEW)
    cache.hold(range(1), prompt(rows))
    keys = torch.arange(float(rows))[:, None, None, None]
    cache.update(keys, keys, 0)
    return decoder, cache


def prompt(rows: int, length: int = 1, width: int = 1) -> Tokens:
    """Text tokens without padding."""
    token = text_tokens(torch.zeros(rows, 1, width), torch.zeros(1, rows, dtype=torch.long))
    return replace(
        token,
        hidden=torch.zeros(rows, length, width),
        mask=torch.ones(rows, length, dtype=torch.bool),
        positions=torch.arange(length).expand(1, rows, -1),
    )


@pytest.mark.parametrize("window", [None, 1, 4, 9, 30])
@pytest.mark.parametrize("sized", [False, True])
def test_masks_hide_what_the_masks_of_a_growing_cache_hide(window: int | None, sized: bool):
    length, slots = 12, 20
    real = torch.arange(length) >= torch.tensor([[0], [3]])
    sizes = torch.rand(2, length) if sized else None
    token = text_tokens(torch.zeros(2, 1, 1), torch.zeros(1, 2, dtype=torch.long))
    wanted = attention_mask(token, Keys(real, True, sizes), window)
    held = Held(
        length,
        torch.tensor([length - 1]),
        torch.nn.functional.pad(real, (0, slots - length)),
        None if sizes is None else torch.nn.functional.pad(sizes, (0, slots - length)),
    )
    given = held.mask(window, torch.float32)
    shown = min(length, window or length)
    assert torch.equal(given[..., length - shown : length], wanted[..., -shown:])
    hidden = torch.finfo(torch.float32).min if sized else False
    assert (given[..., length:] == hidden).all() and (given[..., : length - shown] == hidden).all()


def test_an_answer_longer_than_asked_for_is_refused():
    decoder, cache = filled(rows=1)
    cache.held[0].length = cache.held[0].real.shape[1]
    with pytest.raises(ValueError, match="no slot left"):
        cache.reserve([range(1)])


def test_a_later_batch_takes_the_memory_over():
    subject = Subject("llava")
    decoder = StaticDecoder(subject.model)
    every = range(decoder.layers)
    width = subject.model.get_decoder().config.hidden_size
    earlier, later = decoder.cache(1, 1), decoder.cache(1, 1)
    with torch.inference_mode():
        for cache in (earlier, later):
            decoder.run(prompt(1, 3, width), every, cache)
        with pytest.raises(ValueError, match="A later batch"):
            decoder.run(prompt(1, 1, width), every, earlier)


def test_a_full_device_is_freed_for_smaller_batches(monkeypatch: pytest.MonkeyPatch):
    subject = Subject("llava", decoder="static")
    wanted = subject.answers((0, 1), BOTH)

    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(subject.decoder.torch, "through", full)
        with pytest.raises(torch.OutOfMemoryError):
            subject.answers((0, 1), BOTH)
    assert subject.decoder.owner is None and not subject.decoder.buffers.flat
    assert subject.answers((0, 1), BOTH) == wanted


def test_a_model_that_cannot_be_captured_answers_nevertheless():
    tries = []

    def refusing(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        tries.append(function())
        raise RuntimeError("operation not permitted when stream is capturing")

    subject, engine = engine_with(lambda model: StaticDecoder(model, lambda: refusing))
    reference = Engine(subject.loaded, TorchDecoder(subject.model))
    given, wanted = (
        one.generate(subject.prompts((0, 1)), BOTH, max_new_tokens=NEW)
        for one in (engine, reference)
    )
    assert [one.ids for one in given] == [one.ids for one in wanted]
    assert len(tries) == 1


def test_a_recording_runs_no_python_again():
    state, calls = torch.zeros(2), []

    def function() -> Tensor:
        calls.append(None)
        return state + 1

    replay = Recorder()(function)
    state.fill_(5)
    assert replay().tolist() == [6, 6] and len(calls) == 1


def test_the_oldest_graph_goes():
    counting = Counting()
    graphs = Graphs(lambda: counting)
    for key in range(MOST + 1):
        graphs.run(key, lambda: torch.zeros(1))
    graphs.run(MOST, lambda: torch.zeros(1))
    assert counting.captures == MOST + 1
    graphs.run(0, lambda: torch.zeros(1))
    assert counting.captures == MOST + 2


def test_graphs_are_forgotten_when_memory_moves():
    moves = []
    buffers = Buffers(torch.device("cpu"), lambda: moves.append(None))
    first = buffers.view("keys", (2, 3), torch.float32)
    assert buffers.view("keys", (3, 1), torch.float32).data_ptr() == first.data_ptr()
    assert len(moves) == 1
    buffers.view("keys", (7,), torch.float32)
    assert len(moves) == 2


@pytest.mark.parametrize(
    ("device", "chosen"), [("cuda:1", "static"), ("cpu", "torch"), ("mps", "torch")]
)
def test_only_cuda_gets_the_cache_of_fixed_size(
    device: str, chosen: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sts_cli.engine.engine.StaticDecoder", lambda model: "static")
    monkeypatch.setattr("sts_cli.engine.engine.TorchDecoder", lambda model: "torch")
    decoder = SimpleNamespace(config=SimpleNamespace())
    model = SimpleNamespace(device=torch.device(device), get_decoder=lambda: decoder)
    assert decoder_for(model) == chosen
