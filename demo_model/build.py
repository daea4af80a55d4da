"""The demo model before training: configuration, tokenizer, processor, first weights."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from demo_model.labels import GRID, PATCH, SIDE
from sts_cli.scenes.drawing import draw
from sts_cli.scenes.questions import KINDS, ask
from sts_cli.scenes.words import COLORS, SHAPES

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<bos>", "<eos>", "<unk>", "<image>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
SPECIAL = [PAD, BOS, EOS, UNKNOWN, IMAGE, USER, ASSISTANT]
TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}"
    "{{ '<|user|>' if m['role'] == 'user' else '<|assistant|>' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% if m['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PLACE = 32  # dimensions of the tower's width that only positions use
STEPS = torch.logspace(math.log10(1.6), math.log10(0.12), PLACE // 4)  # radians per patch


@dataclass(frozen=True)
class Size:
    """Widths and depths. The CPU's default trains in hours; `large` stays below 30 MB."""

    width: int = 192
    tower_layers: int = 6
    tower_inner: int = 768
    layers: int = 8
    inner: int = 512
    heads: int = 4


SIZES = {"small": Size(), "large": Size(256, 8, 1024, 8, 704, 4)}


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; capitals and digits are single tokens, so signs are spelled."""
    inner = Tokenizer(models.BPE(unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[A-Z0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    corpus = []
    for seed in range(300):
        scene = draw(seed, 0.0)
        for _ in range(6):
            for kind in KINDS:
                question = ask(kind, scene, rng)
                corpus += [] if question is None else [question.question, question.answer]
    corpus += [" ".join([*COLORS, *SHAPES, *SHAPES.values(), "no", "yes"])] * 50
    corpus += [*COLORS, *SHAPES, "yes", "no", "left", "right", "above", "below", "center"] * 50
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    fast_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast_tokenizer.chat_template = TEMPLATE
    return fast_tokenizer


def processor(tokens: PreTrainedTokenizerFast) -> LlavaProcessor:
    """A processor that resizes pictures to 336 x 336 without cropping, as in training."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"height": SIDE, "width": SIDE},
            do_center_crop=False,
            crop_size={"height": SIDE, "width": SIDE},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=tokens,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=tokens.chat_template,
    )


def model(size: Size, tokens: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """A LLaVA of this size with its initial weights, in float32."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=size.width,
            intermediate_size=size.tower_inner,
            num_hidden_layers=size.tower_layers,
            num_attention_heads=size.heads,
            projection_dim=size.width,
            image_size=SIDE,
            patch_size=PATCH,
            hidden_act="gelu",
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=size.width,
            intermediate_size=size.inner,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        ),
        image_token_id=tokens.convert_tokens_to_ids(IMAGE),
        image_token_index=tokens.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )
    llava = LlavaForConditionalGeneration(config)
    llava.generation_config.eos_token_id = tokens.eos_token_id
    llava.generation_config.pad_token_id = tokens.pad_token_id
    llava.generation_config.max_new_tokens = 96
    with torch.no_grad():
        start_language(llava.model.language_model, size)
        start_tower(tower_of(llava), size)
    return llava


def tower_of(llava: LlavaForConditionalGeneration) -> nn.Module:
    """The vision transformer of a LLaVA."""
    tower = llava.model.vision_tower
    vision_model: nn.Module = getattr(tower, "vision_model", tower)
    return vision_model


def start_language(text: nn.Module, size: Size) -> None:
    """Set small normal weights, smaller where a layer adds to the residual stream."""
    for name, parameter in text.named_parameters():
        if "embed_tokens" in name:
            nn.init.normal_(parameter, std=0.1)
        elif parameter.ndim == 2:
            ends = "o_proj" in name or "down_proj" in name
            nn.init.normal_(parameter, std=0.06 / (math.sqrt(2 * size.layers) / 1.5 if ends else 1))


def start_tower(tower: nn.Module, size: Size) -> None:
    """Set weights with which each head attends to a neighbouring patch at first.

    Positions have their own dimensions: cos and sin at eight frequencies for each axis. A query is
    the position code turned by an offset, so the patch at that offset gets the most attention.
    """
    for name, parameter in tower.named_parameters():
        if parameter.ndim == 2 and ("proj" in name or "fc" in name):
            ends = "out_proj" in name or "fc2" in name
            scale = 1.5 / math.sqrt(2 * size.tower_layers) if ends else 1
            nn.init.trunc_normal_(parameter, std=0.02 * scale)
    embed = tower.embeddings
    nn.init.normal_(embed.class_embedding, std=0.02)
    nn.init.normal_(embed.patch_embedding.weight, std=0.02)
    embed.position_embedding.weight.zero_()
    embed.position_embedding.weight[1:, :PLACE] = 0.6 * position_code()
    quarter = PLACE // 4
    near = [[(-1, 0), (1, 0), (0, 1), (0, -1)], [(-2, 0), (2, 0), (-1, 0), (1, 0)]]
    width = size.width // size.heads
    for number, layer in enumerate(tower.encoder.layers):
        strength = 2.0 if number < size.tower_layers - 1 else 1.2
        for head, (dx, dy) in enumerate(near[number % 2][: size.heads]):
            key, query = torch.zeros(PLACE, size.width), torch.zeros(PLACE, size.width)
            key[:, :PLACE] = torch.eye(PLACE)
            for axis, offset in enumerate((dx, dy)):
                cos, sin = (STEPS * offset).cos(), (STEPS * offset).sin()
                for i in range(quarter):
                    c, s = 2 * axis * quarter + i, (2 * axis + 1) * quarter + i
                    query[c, c], query[c, s] = cos[i], -sin[i]
                    query[s, s], query[s, c] = cos[i], sin[i]
            rows = slice(head * width, head * width + PLACE)
            for projection, code in (
                (layer.self_attn.k_proj, key),
                (layer.self_attn.q_proj, query),
            ):
                projection.weight[rows] = projection.weight[rows] / 2 + strength * code


def position_code() -> Tensor:
    """Position codes [576, 32]: cos and sin of the column, then of the row."""
    row, column = (
        axis.reshape(-1, 1) for axis in torch.meshgrid(*2 * [torch.arange(GRID)], indexing="ij")
    )
    x, y = column * STEPS, row * STEPS
    return torch.cat([x.cos(), x.sin(), y.cos(), y.sin()], dim=1)


def whiten(tower: nn.Module, pixels: Tensor) -> None:
    """Set the patch embedding to the whitened principal components of patches [n, 588]."""
    _, values, vectors = components(pixels)
    free = tower.embeddings.patch_embedding.weight.shape[0] - PLACE
    best = (vectors[:, -free:] / (values[-free:] + 1e-3).sqrt()).mT.flip(0).float()
    with torch.no_grad():
        weight = tower.embeddings.patch_embedding.weight
        weight.zero_()
        weight.view(len(weight), -1)[PLACE:] = 0.4 * best


def components(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components of rows [n, D]: centre [D], variances [D] rising, directions [D, D]."""
    centre = rows.mean(0)
    covariance = (rows - centre).mT @ (rows - centre) / len(rows)
    values, vectors = torch.linalg.eigh(covariance.double())
    return centre, values, vectors


def whiten_projector(projector: nn.Module, features: Tensor) -> None:
    """Set the projector to whiten features [n, D], so that colours count as much as letters.

    The tower's features have far more variance in some directions than in others, and far more than
    text embeddings. Without whitening, a language model hardly learns the directions with little.
    """
    centre, values, vectors = components(features)
    scale = (values + 0.01 * values.mean()).rsqrt()
    turn = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.double)).Q
    weight = (turn @ (vectors * scale).mT).float()
    with torch.no_grad():
        projector.linear_1.weight.copy_(weight)
        projector.linear_1.bias.copy_(-weight @ centre)
        second = torch.linalg.qr(torch.randn(len(values), len(values))).Q
        projector.linear_2.weight.copy_(0.5 * second)
        projector.linear_2.bias.zero_()


def save(
    llava: LlavaForConditionalGeneration, tokens: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write a checkpoint as on the hub: bfloat16 safetensors, tokenizer, processor, template."""
    folder.mkdir(parents=True, exist_ok=True)
    llava.to(torch.bfloat16).save_pretrained(folder)
    processor(tokens).save_pretrained(folder)
