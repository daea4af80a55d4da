"""Split a LLaVA checkpoint for llama.cpp's converters: python peer_split.py CHECKPOINT FOLDER."""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

checkpoint, folder = map(Path, sys.argv[1:])
llava = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16)
text = LlamaForCausalLM(llava.config.text_config).to(torch.bfloat16)
text.model.load_state_dict(llava.model.language_model.state_dict())
text.lm_head.load_state_dict(llava.lm_head.state_dict())
text.save_pretrained(folder / "text")
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(checkpoint / name, folder / "text")
clip = folder / "clip"
clip.mkdir(exist_ok=True)
torch.save(llava.model.vision_tower.float().state_dict(), clip / "pytorch_model.bin")
config = {**llava.config.vision_config.to_dict(), "architectures": ["CLIPVisionModel"]}
(clip / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
projector = llava.model.multi_modal_projector.float().state_dict()
names = {"linear_1": "model.mm_projector.0", "linear_2": "model.mm_projector.2"}
renamed = {names[name.split(".")[0]] + "." + name.split(".")[1]: t for name, t in projector.items()}
torch.save(renamed, clip / "llava.projector")
