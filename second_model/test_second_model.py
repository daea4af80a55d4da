"""The second model's recipe on a tiny random language model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from demo_model import build as demo
from demo_model import forward
from demo_model.labels import patches
from demo_model.optimizer import Optimizer
from demo_model.stream import example
from second_model import build
from second_model.__main__ import DEMO
from second_model.train import Run, Settings
from sts_cli.answering.request import OFF
from sts_cli.checkpoints.sources import find
from sts_cli.library import load_model
from sts_cli.scenes.drawing import draw
from sts_cli.scenes.words import COLORS

SCENES = [draw(seed, 0.0) for seed in (11, 12)]


def tokenizer() -> Any:
    """The demo's, with SmolLM2's names for what opens and ends a turn."""
    tokens = demo.tokenizer()
    tokens.add_special_tokens({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    tokens.add_tokens(["user"])
    return build.spelled(tokens)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    torch.manual_seed(0)
    tokens = tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokens) - 1,  # as many as before one more, <image>
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return Run(Settings(tmp_path, 1.0), LlamaForCausalLM(config), tokens, DEMO)


def taught(run: Run) -> None:
    """Adapters that do something, without training."""
    with torch.no_grad():
        for _, weight in build.adapt(run.model):
            weight.copy_(0.2 * torch.randn_like(weight))


def loss(run: Run, visual: int = 576) -> torch.Tensor:
    """Of the same questions about the same pictures each time."""
    return run.asked(run.seen([example(one) for one in SCENES]), visual, random.Random(1))[0]


def test_steps_lower_the_loss_and_only_projector_and_adapters_learn(run: Run) -> None:
    learning = build.adapt(run.model)
    run.model.bfloat16()
    named = dict(run.model.named_parameters())
    frozen = {name: named[name].detach().clone() for name in named.keys() - dict(learning).keys()}
    optimizer = Optimizer([(2e-2, learning)])
    first = float(loss(run).detach())
    for _ in range(8):
        loss(run, 100).backward()
        optimizer.step(1.0)
    assert float(loss(run).detach()) < 0.97 * first
    assert all(torch.equal(named[name], was) for name, was in frozen.items())
    assert {name.split(".")[1] for name, _ in learning} == {
        "multi_modal_projector",
        "language_model",
    }


def test_merged_adapters_compute_what_they_computed_beside_the_layers(run: Run) -> None:
    taught(run)
    beside = loss(run)
    build.merge(run.model)
    torch.testing.assert_close(loss(run), beside)
    assert not any(isinstance(part, build.Adapted) for part in run.model.modules())


def prompt(processor: Any, question: str) -> str:
    said = [{"type": "image"}, {"type": "text", "text": question}]
    turns = [{"role": "user", "content": said}]
    return str(processor.apply_chat_template(turns, add_generation_prompt=True))


def test_what_is_taught_is_what_the_written_checkpoint_runs_and_sts_with_it(run: Run) -> None:
    taught(run)
    run.export()
    folder = run.settings.folder / "checkpoint"
    llava = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = LlavaProcessor.from_pretrained(folder)
    image, question, answer = SCENES[0].image, "what color is the sign that says 4U?", "dark red"
    text = prompt(processor, question)
    inputs = processor(images=[image], text=[text + answer], return_tensors="pt")
    packed, _ = run.packer.lay([[run.packer.asked("color", question, answer)]])
    count = len(packed["targets"])
    expected = llava(**inputs).logits[0, -count:]
    run.model = llava
    pixels = torch.from_numpy(patches(image)[None]).float() / 127.5 - 1
    features = forward.tower(demo.tower_of(llava), pixels)
    logits = run.logits(features, torch.arange(576)[None], packed, torch.ones(1, 576))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    written = llava.generate(**inputs, max_new_tokens=6, do_sample=False)
    fresh = written[0, inputs["input_ids"].shape[1] :]
    vlm = load_model(find(str(folder)), OFF, device="cpu", dtype="float32")
    given = vlm.ask(image, question, max_new_tokens=6)
    assert given.text == processor.decode(fresh, skip_special_tokens=True).strip()


def test_a_patch_means_the_words_for_what_it_shows() -> None:
    tokens = tokenizer()
    embedding = torch.eye(len(tokens))
    labels = torch.from_numpy(example(SCENES[0]).labels).long()
    meaning = build.translated(labels, embedding, tokens)
    red = tokens.encode(" red")[0]
    color = 1 + list(COLORS).index("red")
    assert (meaning[:, red] >= 1).tolist() == (labels[:, build.COLOR] == color).tolist()
