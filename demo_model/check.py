"""The training forward against transformers' own, on random weights: features and answers."""

from __future__ import annotations

import random

import torch

from demo_model import build, forward, losses
from demo_model.labels import patches
from sts_cli.scenes.drawing import draw
from sts_cli.scenes.questions import ask


@torch.no_grad()
def check() -> dict[str, float]:
    """Largest differences of features and logits, in float32."""
    tokens = build.tokenizer()
    model = build.model(build.SIZES["small"], tokens, seed=0).eval()
    processor = build.processor(tokens)
    scene = draw(5, 1.0)
    found = ask("text", scene, random.Random(0))
    assert found is not None
    prompt = processor.apply_chat_template(
        [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": found.question}],
            }
        ],
        add_generation_prompt=True,
    )
    inputs = processor(images=[scene.image], text=[prompt + found.answer], return_tensors="pt")
    asked = len(tokens.encode(found.answer, add_special_tokens=False))
    expected = model(**inputs).logits[0, -asked - 1 :]
    seen = model.get_image_features(inputs["pixel_values"]).pooler_output[0]

    pixels = torch.from_numpy(patches(scene.image)[None]).float() / 127.5 - 1
    features = forward.tower(build.tower_of(model), pixels)
    packer = losses.Packer(tokens, 220)
    packed, _ = packer.lay([[packer.asked("text", found.question, found.answer)]])
    where = torch.arange(576)[None]
    logits, _ = forward.answers(model, features, where, packed, torch.tensor(packer.prefix))
    return {
        "features": float((model.model.multi_modal_projector(features)[0] - seen).abs().max()),
        "logits": float((logits - expected).abs().max()),
        "scale": float(expected.abs().max()),
    }
