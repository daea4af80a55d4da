"""The default family: how images become part of a prompt. It fits most models of transformers."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sts_cli.decoding.tokens import Tokens
from sts_cli.errors import ModelError
from sts_cli.families.inputs import batched
from sts_cli.families.observing import Observer
from sts_cli.families.places import WHOLE, Part, cropped, square_tiles
from sts_cli.pruning import Need


@dataclass(frozen=True)
class Pixels:
    """One image as its processor prepares it for the model."""

    inputs: dict[str, Tensor]  # for `get_image_features`
    replacement: str  # the text that replaces the image's placeholder in the prompt
    count: int  # visual tokens in that text
    size: tuple[int, int]  # width and height in pixels
    shown: Part = WHOLE  # what the model sees of the image, where `places` are

    @cached_property
    def seed(self) -> int:
        """A checksum of the inputs, for methods that draw at random."""
        seed = 0
        for name in sorted(self.inputs):
            values = self.inputs[name].contiguous().view(torch.uint8).numpy()
            seed = zlib.crc32(values.data, seed)
        return seed


@dataclass(frozen=True, eq=False)
class Encoded:
    """One image as the language model sees it: N visual tokens. Compared by identity."""

    features: Tensor  # [N, D]
    grid: Tensor  # [N, 2]; row and column, each in 0..1
    deepstack: tuple[Tensor, ...]  # [N, D] each; features added after the first layers (Qwen3-VL)
    pixels: Pixels
    attention: Mapping[Need, Tensor] = field(default_factory=dict)  # [N] each; what was asked for
    idle: Tensor | None = None  # [M, D]; features that only text before the image reads (Mllama)


@dataclass(frozen=True)
class Prompt:
    """One question with its images, ready for the language model."""

    ids: list[int]
    images: tuple[Encoded, ...]
    limit: int | None = None  # new tokens, before what the run says
    guide: tuple[Tensor, ...] = ()  # [N] of each image: what a guide says of its tokens

    @property
    def visual(self) -> int:
        """The number of visual tokens, of all images together."""
        return sum(len(image.features) for image in self.images)

    @property
    def text(self) -> int:
        """The number of tokens of text."""
        idle = sum(len(image.idle) for image in self.images if image.idle is not None)
        return len(self.ids) - self.visual - idle

    def words(self, image_token_id: int) -> int:
        """The number of tokens after the last image; they can attend to every visual token."""
        reverse = self.ids[::-1]
        return reverse.index(image_token_id) if image_token_id in reverse else len(reverse)


class Family:
    """LLaVA, Idefics3, SmolVLM, InternVL, and other models with the same conventions.

    Each image is processed and encoded by itself, so that questions can share it. A prompt then
    joins text and encoded images.
    """

    single_differs = False  # True: a question's only image is processed differently from others

    def __init__(self, model: Any, processor: Any, encoder: Any):
        self.model = model
        self.encoder = encoder  # the model, or what computes its `get_image_features`
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id: int = model.config.image_token_id
        self.embedding = model.get_input_embeddings()

    # Images

    @cached_property
    def observer(self) -> Observer:
        """The encoder with its attention observed."""
        return Observer(self.model, self.encoder)

    def pixels(self, image: Image.Image, single: bool = True) -> Pixels:
        """The processor's output for one RGB image. Safe to call from several threads.

        `single` is True for a question's only image.
        """
        return self._processed([image], image.size)

    def _processed(self, images: list[Image.Image], size: tuple[int, int]) -> Pixels:
        """The processor's output for the first of `images`, all processed together."""
        outputs = self.processor(
            images=[images],
            text=[self.processor.image_token * len(images)],
            return_tensors="pt",
            return_text_replacement_offsets=True,
        )
        replacement = outputs.pop("text_replacement_offsets")[0][0]["replacement"]
        count = int((outputs.pop("input_ids") == self.image_token_id).sum()) // len(images)
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            outputs.pop(name, None)
        return Pixels(dict(outputs), replacement, count, size, self.shown(size))

    def shown(self, size: tuple[int, int]) -> Part:
        """What the model sees of an image of this width and height."""
        return cropped(self.processor.image_processor, size)

    def encode(
        self, pixels: Sequence[Pixels], encoder: Any = None, watch: Collection[Need] = ()
    ) -> list[Encoded]:
        """The encoded images, in order. Images with inputs of the same shapes share one pass.

        `encoder` computes `get_image_features` in the place of the family's own; `watch` names the
        attention inside the family's own that is wanted with them. Raises ModelError if the model
        and its processor count visual tokens differently.
        """
        encoded: list[Encoded | None] = [None] * len(pixels)
        groups: dict[Any, list[int]] = {}
        for index, image in enumerate(pixels):
            shape = tuple((name, value.shape) for name, value in sorted(image.inputs.items()))
            groups.setdefault(shape, []).append(index)
        for members in groups.values():
            same = [pixels[i].inputs for i in members]
            inputs = batched(same, self.model.device, self.model.dtype)
            if watch:
                output, seen = self.observer.run(inputs, watch)
            else:
                output, seen = (encoder or self.encoder).get_image_features(**inputs), {}
            counts = [pixels[i].count for i in members]
            attention = {need: self._per_image(got, counts) for need, got in seen.items()}
            features = self._per_image(output.pooler_output, counts)
            levels = getattr(output, "deepstack_features", None) or ()
            deepstack = list(zip(*(self._per_image(x, counts) for x in levels), strict=True))
            for member, index in enumerate(members):
                image = pixels[index]
                encoded[index] = Encoded(
                    features=features[member],
                    grid=self.places(image).to(self.model.device),
                    deepstack=deepstack[member] if deepstack else (),
                    pixels=image,
                    attention={need: got[member][:, 0] for need, got in attention.items()},
                )
        return [image for image in encoded if image is not None]

    def _per_image(self, output: Any, counts: list[int]) -> list[Tensor]:
        """[N, D] for each image, from a tensor or a list of tensors. Raises ModelError."""
        parts = [output] if isinstance(output, Tensor) else output
        flat = torch.cat([part.flatten(0, -2) for part in parts])
        if flat.shape[0] != sum(counts):
            raise ModelError(
                f"The processor expects {sum(counts)} visual tokens, but the model made "
                f"{flat.shape[0]}: the checkpoint's processor does not fit its weights."
            )
        return list(flat.split(counts))

    def places(self, pixels: Pixels) -> Tensor:
        """The row and column of every visual token in the image, each in 0..1, as [N, 2]."""
        per_tile = getattr(self.processor, "image_seq_length", None) or getattr(
            self.processor, "image_seq_len", None
        )
        return square_tiles(pixels.count, per_tile or pixels.count, pixels.size)

    # Text

    def prompt_text(self, question: str, images: int, places: Sequence[int] = ()) -> str:
        """The question in the chat template, with a placeholder for each image.

        `places` are the characters that the images stand before; all at the front without any.
        """
        if len(places) != images or not any(places):
            content = [{"type": "image"}] * images
            return self.rendered([*content, {"type": "text", "text": self.escaped(question)}])
        ends = [*places, len(question)]
        texts = [
            self.escaped(question[start:end]) for start, end in zip([0, *places], ends, strict=True)
        ]
        content = [{"type": "text", "text": texts[0]}] if texts[0] else []
        for text in texts[1:]:
            content += [{"type": "image"}, *([{"type": "text", "text": text}] if text else [])]
        rendered, placeholder = self.rendered(content), self.processor.image_token
        pieces = rendered.split(placeholder)
        if len(pieces) == len(texts) and all(
            text.strip() in piece for text, piece in zip(texts, pieces, strict=True)
        ):
            return rendered
        # Templates such as LLaVA's put all images first; a placeholder in a text stays there.
        inside = f"{placeholder}\n".join(texts)
        return self.rendered([{"type": "text", "text": inside}])

    def rendered(self, content: Sequence[dict[str, str]]) -> str:
        """Parts of a question in the chat template."""
        text: str = self.processor.apply_chat_template(
            [{"role": "user", "content": list(content)}],
            add_generation_prompt=True,
            tokenize=False,
        )
        return text

    def escaped(self, question: str) -> str:
        """The question with a space in every special token's name, so that it stays plain text.

        `<image>` becomes `< image>`, so that the prompt has one placeholder per image.
        """
        for token in self.tokenizer.added_tokens_decoder.values():
            name = token.content
            if token.special and len(name) > 1 and name in question:
                question = question.replace(name, f"{name[0]} {name[1:]}")
        return question

    def tokenize(
        self, question: str, images: Sequence[Pixels], places: Sequence[int] = ()
    ) -> list[int]:
        """Token ids of a question's prompt, with each image's placeholder replaced.

        `places` as of `prompt_text`.

        Raises ModelError if the chat template does not write one placeholder per image.
        """
        placeholder = self.processor.image_token
        pieces = self.prompt_text(question, len(images), places).split(placeholder)
        if len(pieces) != len(images) + 1:
            raise ModelError(
                f"The chat template made {len(pieces) - 1} placeholders for {len(images)} images."
            )
        prompt = pieces[0]
        for image, piece in zip(images, pieces[1:], strict=True):
            prompt += image.replacement + piece
        special = self.needs_special_tokens(prompt)
        return list(self.tokenizer(prompt, add_special_tokens=special)["input_ids"])

    def needs_special_tokens(self, prompt: str) -> bool:
        """True if the tokenizer must add special tokens, since the template wrote none."""
        bos = self.tokenizer.bos_token
        return bos is None or not prompt.startswith(bos)

    # Tokens

    def embed(self, prompts: Sequence[Prompt]) -> Tokens:
        """The prompts as one batch, padded on the left, with features at the visual tokens."""
        device = self.model.device
        lengths = [len(prompt.ids) for prompt in prompts]
        longest = max(lengths)
        ids = np.zeros((len(prompts), longest), dtype=np.int64)
        image = np.full((len(prompts), longest), -1)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt.ids) :] = prompt.ids
            counts = [len(encoded.features) for encoded in prompt.images]
            shown = np.nonzero(ids[row] == self.image_token_id)[0]
            image[row, shown] = np.repeat(np.arange(len(counts)), counts)
        mask = np.arange(longest) >= longest - np.array(lengths)[:, None]
        where = tuple(torch.from_numpy(index).to(device) for index in np.nonzero(image >= 0))
        images = [encoded for prompt in prompts for encoded in prompt.images]
        hidden = self.embedding(torch.from_numpy(np.where(image >= 0, 0, ids)).to(device))
        grid = torch.zeros((*ids.shape, 2), device=device)
        residuals: list[Tensor] = []
        if images:
            features = torch.cat([encoded.features for encoded in images]).to(hidden.dtype)
            hidden = hidden.index_put(where, features)
            grid = grid.index_put(where, torch.cat([encoded.grid for encoded in images]))
            for level in zip(*(encoded.deepstack for encoded in images), strict=True):
                added = torch.cat(level).to(hidden.dtype)
                residuals.append(torch.zeros_like(hidden).index_put(where, added))
        on_device = (torch.from_numpy(values).to(device) for values in (ids, mask, image))
        device_ids, device_mask, device_image = on_device
        visual = device_image >= 0
        return Tokens(
            hidden=hidden,
            mask=device_mask,
            padded=min(lengths) < longest,
            positions=self.positions(device_ids, device_mask, visual, images),
            image=device_image,
            segment=number_segments(visual),
            grid=grid,
            residuals=tuple(residuals),
        )

    def positions(
        self, ids: Tensor, mask: Tensor, visual: Tensor, images: Sequence[Encoded]
    ) -> Tensor:
        """Position ids [P, B, L] of all tokens; P is 1 for plain RoPE."""
        return (mask.cumsum(1) - 1).clamp(min=0)[None]


def number_segments(visual: Tensor) -> Tensor:
    """The number of each token's segment of adjacent visual tokens [B, L], from 0; -1 for text."""
    starts = visual & ~torch.nn.functional.pad(visual, (1, 0))[:, :-1]
    return (starts.cumsum(1) - 1).masked_fill(~visual, -1)
