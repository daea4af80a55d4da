"""Comparison of the training forward with transformers' own, on random weights."""

from __future__ import annotations

import random

import torch

from demo_model import build, forward, losses
from demo_model.labels import patches
from sts_cli.scenes.drawing import draw
from sts_cli.scenes.questions import ask


@torch.no_grad()
def check() -> dict[str, float]:
    """The largest differences of features and logits in float32, and the largest logit."""
    tokens = build.tokenizer()
    model = build.model(build.SIZES["small"], tokens, seed=0).eval()
    processor = build.processor(tokens)
    scene = draw(5, 1.0)
    question = ask("text", scene, random.Random(0))
    assert question is not None
    prompt = processor.apply_chat_template(
        [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": question.question}],
            }
        ],
        add_generation_prompt=True,
    )
    inputs = processor(images=[scene.image], text=[prompt + question.answer], return_tensors="pt")
    count = len(tokens.encode(question.answer, add_special_tokens=False))
    expected = model(**inputs).logits[0, -count - 1 :]
    visual = model.get_image_features(inputs["pixel_values"]).pooler_output[0]

    pixels = torch.from_numpy(patches(scene.image)[None]).float() / 127.5 - 1
    features = forward.tower(build.tower_of(model), pixels)
    packer = losses.Packer(tokens, 220)
    packed, _ = packer.lay([[packer.asked("text", question.question, question.answer)]])
    patch_numbers = torch.arange(576)[None]
    logits, _ = forward.answers(model, features, patch_numbers, packed, torch.tensor(packer.prefix))
    return {
        "features": float((model.model.multi_modal_projector(features)[0] - visual).abs().max()),
        "logits": float((logits - expected).abs().max()),
        "scale": float(expected.abs().max()),
    }
