"""How a VLM puts images into its prompt. The default fits most families of transformers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sts_cli.decoding.tokens import Tokens
from sts_cli.errors import ModelError
from sts_cli.families.places import square_tiles


@dataclass(frozen=True)
class Pixels:
    """One image, as its processor hands it to the model."""

    inputs: dict[str, Tensor]  # for `get_image_features`
    text: str  # what stands for the image in the prompt
    count: int  # visual tokens in that text
    size: tuple[int, int]  # width and height in pixels

    @cached_property
    def seed(self) -> int:
        """A number that follows from what the model is shown, for methods that draw."""
        seed = 0
        for name in sorted(self.inputs):
            values = self.inputs[name].contiguous().view(torch.uint8).numpy()
            seed = zlib.crc32(values.data, seed)
        return seed


@dataclass(frozen=True, eq=False)
class Encoded:
    """One image, as the language model sees it: N visual tokens. Compared by identity."""

    features: Tensor  # [N, D]
    grid: Tensor  # [N, 2]; row and column, each in 0..1
    deep: tuple[Tensor, ...]  # [N, D] each; DeepStack features for the first layers
    pixels: Pixels


@dataclass(frozen=True)
class Prompt:
    """One question with its images, ready for the language model."""

    ids: list[int]
    images: tuple[Encoded, ...]

    @property
    def visual(self) -> int:
        """How many of its tokens show an image."""
        return sum(len(image.features) for image in self.images)

    def words(self, image_token_id: int) -> int:
        """How many of its tokens come after its last image; these can attend to all of it."""
        reverse = self.ids[::-1]
        return reverse.index(image_token_id) if image_token_id in reverse else len(reverse)


class Family:
    """LLaVA, Idefics3, SmolVLM, InternVL, and whatever follows the same conventions.

    One image at a time goes through the processor and the encoder, so that questions can share
    it; a prompt is put together from text and what its images became.
    """

    alone_differs = False  # whether an image alone in its question is cut up differently

    def __init__(self, model: Any, processor: Any, encoder: Any):
        self.model = model
        self.encoder = encoder  # the model, or what computes its `get_image_features`
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id: int = model.config.image_token_id
        self.embedding = model.get_input_embeddings()

    # Images

    def pixels(self, image: Image.Image, alone: bool = True) -> Pixels:
        """The processor's view of one RGB image. Safe to call from several threads.

        `alone` says whether it is its question's only image.
        """
        return self._processed([image], image.size)

    def _processed(self, images: list[Image.Image], size: tuple[int, int]) -> Pixels:
        """The first of `images`, processed together."""
        made = self.processor(
            images=[images],
            text=[self.processor.image_token * len(images)],
            return_tensors="pt",
            return_text_replacement_offsets=True,
        )
        text = made.pop("text_replacement_offsets")[0][0]["replacement"]
        count = int((made.pop("input_ids") == self.image_token_id).sum()) // len(images)
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            made.pop(name, None)
        return Pixels(dict(made), text, count, size)

    def encode(self, pixels: Sequence[Pixels]) -> list[Encoded]:
        """Features of several images, in one pass where their inputs have the same shape."""
        encoded: list[Encoded | None] = [None] * len(pixels)
        groups: dict[Any, list[int]] = {}
        for index, one in enumerate(pixels):
            shape = tuple((name, value.shape) for name, value in sorted(one.inputs.items()))
            groups.setdefault(shape, []).append(index)
        for members in groups.values():
            inputs = {
                name: torch.cat([pixels[i].inputs[name] for i in members]).to(self.model.device)
                for name in pixels[members[0]].inputs
            }
            inputs = {
                name: value.to(self.model.dtype) if value.is_floating_point() else value
                for name, value in inputs.items()
            }
            output = self.encoder.get_image_features(**inputs)
            counts = [pixels[i].count for i in members]
            features = self._per_image(output.pooler_output, counts)
            levels = getattr(output, "deepstack_features", None) or ()
            deep = list(zip(*(self._per_image(level, counts) for level in levels), strict=True))
            for place, index in enumerate(members):
                one = pixels[index]
                encoded[index] = Encoded(
                    features=features[place],
                    grid=self.places(one).to(self.model.device),
                    deep=deep[place] if deep else (),
                    pixels=one,
                )
        return [one for one in encoded if one is not None]

    def _per_image(self, output: Any, counts: list[int]) -> list[Tensor]:
        """`[N, D]` for each image, out of a tensor or a list of any nesting."""
        parts = [output] if isinstance(output, Tensor) else output
        flat = torch.cat([part.flatten(0, -2) for part in parts])
        if flat.shape[0] != sum(counts):
            raise ModelError(
                f"The processor expects {sum(counts)} visual tokens, but the model made "
                f"{flat.shape[0]}: the checkpoint's processor does not belong to its weights."
            )
        return list(flat.split(counts))

    def places(self, pixels: Pixels) -> Tensor:
        """[N, 2]: the row and column of every visual token in the image, each in 0..1."""
        per_tile = getattr(self.processor, "image_seq_length", None) or getattr(
            self.processor, "image_seq_len", None
        )
        return square_tiles(pixels.count, per_tile or pixels.count, pixels.size)

    # Text

    def prompt_text(self, question: str, images: int) -> str:
        """The chat template around a question, with a placeholder for each image."""
        content = [{"type": "image"}] * images
        content = [*content, {"type": "text", "text": self.harmless(question)}]
        rendered: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return rendered

    def harmless(self, question: str) -> str:
        """The question, in which no special token's name is taken for that token.

        `<image>` in a question becomes `< image>`: the prompt keeps one placeholder per image.
        """
        for token in self.tokenizer.added_tokens_decoder.values():
            name = token.content
            if token.special and len(name) > 1 and name in question:
                question = question.replace(name, f"{name[0]} {name[1:]}")
        return question

    def tokenize(self, question: str, images: Sequence[Pixels]) -> list[int]:
        """Token ids of a question's prompt, each image's placeholder expanded."""
        placeholder = self.processor.image_token
        pieces = self.prompt_text(question, len(images)).split(placeholder)
        if len(pieces) != len(images) + 1:
            raise ModelError(
                f"The chat template made {len(pieces) - 1} placeholders for {len(images)} images."
            )
        text = pieces[0]
        for image, piece in zip(images, pieces[1:], strict=True):
            text += image.text + piece
        return list(self.tokenizer(text, add_special_tokens=self.unmarked(text))["input_ids"])

    def unmarked(self, text: str) -> bool:
        """Whether the tokenizer has still to add special tokens, which many a template writes."""
        bos = self.tokenizer.bos_token
        return bos is None or not text.startswith(bos)

    # Tokens

    def embed(self, prompts: Sequence[Prompt]) -> Tokens:
        """The prompts as one batch, padded on the left, image features in their places."""
        device = self.model.device
        lengths = [len(prompt.ids) for prompt in prompts]
        longest = max(lengths)
        ids = np.zeros((len(prompts), longest), dtype=np.int64)
        image = np.full((len(prompts), longest), -1)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt.ids) :] = prompt.ids
            counts = [len(one.features) for one in prompt.images]
            shown = np.nonzero(ids[row] == self.image_token_id)[0]
            image[row, shown] = np.repeat(np.arange(len(counts)), counts)
        mask = np.arange(longest) >= longest - np.array(lengths)[:, None]
        where = tuple(torch.from_numpy(index).to(device) for index in np.nonzero(image >= 0))
        images = [one for prompt in prompts for one in prompt.images]
        hidden = self.embedding(torch.from_numpy(np.where(image >= 0, 0, ids)).to(device))
        grid = torch.zeros((*ids.shape, 2), device=device)
        residuals: list[Tensor] = []
        if images:
            features = torch.cat([one.features for one in images]).to(hidden.dtype)
            hidden = hidden.index_put(where, features)
            grid = grid.index_put(where, torch.cat([one.grid for one in images]))
            for level in zip(*(one.deep for one in images), strict=True):
                deep = torch.cat(level).to(hidden.dtype)
                residuals.append(torch.zeros_like(hidden).index_put(where, deep))
        every = (torch.from_numpy(values).to(device) for values in (ids, mask, image))
        device_ids, device_mask, device_image = every
        visual = device_image >= 0
        return Tokens(
            hidden=hidden,
            mask=device_mask,
            padded=min(lengths) < longest,
            positions=self.positions(device_ids, device_mask, visual, images),
            image=device_image,
            run=number_runs(visual),
            grid=grid,
            residuals=tuple(residuals),
        )

    def positions(
        self, ids: Tensor, mask: Tensor, visual: Tensor, images: Sequence[Encoded]
    ) -> Tensor:
        """[P, B, L]: where each token stands; P is 1 for plain RoPE."""
        return (mask.cumsum(1) - 1).clamp(min=0)[None]


def number_runs(visual: Tensor) -> Tensor:
    """[B, L]: 0 for a row's first unbroken run of visual tokens, 1 for the next, -1 for text."""
    starts = visual & ~torch.nn.functional.pad(visual, (1, 0))[:, :-1]
    return (starts.cumsum(1) - 1).masked_fill(~visual, -1)
