"""Split a LLaVA checkpoint of transformers into the parts that llama.cpp's converters read.

    python split_llava.py CHECKPOINT FOLDER

Writes FOLDER/text (the language model) and FOLDER/clip (the vision tower in float32, with
llava.projector beside it). Runs in the environment of the converters, without this package.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration


def main(checkpoint: Path, folder: Path) -> None:
    text_folder, clip_folder = folder / "text", folder / "clip"
    llava = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16)
    text = LlamaForCausalLM(llava.config.text_config).to(torch.bfloat16)
    text.model.load_state_dict(llava.model.language_model.state_dict())
    text.lm_head.load_state_dict(llava.lm_head.state_dict())
    text.save_pretrained(text_folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, text_folder)
    clip_folder.mkdir(parents=True, exist_ok=True)
    tower = llava.model.vision_tower.float().state_dict()
    weights = {f"vision_model.{name.removeprefix('vision_model.')}": t for name, t in tower.items()}
    torch.save(weights, clip_folder / "pytorch_model.bin")
    config = {**llava.config.vision_config.to_dict(), "architectures": ["CLIPVisionModel"]}
    (clip_folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    projector = llava.model.multi_modal_projector.float()
    layers = {0: projector.linear_1, 2: projector.linear_2}
    torch.save(
        {
            f"model.mm_projector.{place}.{name}": tensor
            for place, layer in layers.items()
            for name, tensor in layer.state_dict().items()
        },
        clip_folder / "llava.projector",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
