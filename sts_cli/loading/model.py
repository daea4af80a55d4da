"""A checkpoint into memory: device, precision, processor, attention."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sts_cli.checkpoints.checkpoint import Checkpoint, examine_text_files
from sts_cli.checkpoints.sources import Source, fetched
from sts_cli.decoding.attention import NAME as ATTENTION
from sts_cli.errors import ModelError
from sts_cli.families import UNTESTED_TOWERS, adapter, refuse, skeleton
from sts_cli.families.default import Family
from sts_cli.loading.foreign import explained, quiet
from sts_cli.loading.processor import load_processor
from sts_cli.loading.soundness import non_finite, wrong_shapes
from sts_cli.machine.hardware import (
    choose_device,
    choose_dtype,
    cpu_features,
    free_memory,
)
from sts_cli.openvino.ready import NotConvertible, choose_backend
from sts_cli.profile import Backend, Quantize
from sts_cli.quantization.choice import Machine, choose, memory_needed


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer, and how it was loaded."""

    name: str  # as the user wrote it
    model: Any  # a PreTrainedModel in eval mode; no parameter asks for a gradient
    processor: Any
    device: torch.device
    dtype: torch.dtype
    quantize: Quantize  # resolved: never "auto"
    attention: str = ATTENTION
    decoder: Any = None  # runs the layers; None: PyTorch
    encoder: Any = None  # has `get_image_features`; None: the model
    checkpoint: Checkpoint | None = None  # None: the model was made, not read

    @property
    def precision(self) -> str:
        """Such as "bfloat16, int8": of activations, of weights; and the backend if not PyTorch."""
        backend = "" if self.decoder is None else ", openvino"
        return f"{str(self.dtype).removeprefix('torch.')}, {self.quantize}{backend}"


def load(
    source: Source,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantize = "none",
    backend: Backend = "torch",
    progress: Callable[[str], None] | None = None,
) -> Loaded:
    """The model of `source`. `progress` is told what takes long. Raises ModelError."""
    say = progress or (lambda message: None)
    place = choose_device(device)
    precision = choose_dtype(dtype, place)

    def check(folder: Path) -> None:
        with quiet(), explained(source.name):
            examine_text_files(folder, source.name)  # all before gigabytes are fetched
            config = read_config(folder)
            refuse(skeleton(config))
            load_processor(folder, config)

    checkpoint = fetched(source, say, check).checkpoint
    assert checkpoint is not None
    runs_layers = choose_backend(backend, checkpoint, place.type, quantize)
    machine = Machine(place.type, runs_layers, cpu_features(), free_memory(place))
    weights = choose(quantize, checkpoint, machine, precision.itemsize)
    with quiet(), explained(source.name):
        config = read_config(checkpoint.folder)
        if not checkpoint.tested:
            refuse(skeleton(config))  # before gigabytes are read
            say(untested(checkpoint))
        processor = load_processor(checkpoint.folder, config)
        model = decoder = encoder = None
        if runs_layers == "openvino":
            try:
                model, decoder, encoder = read_for_openvino(
                    checkpoint, config, processor, precision, weights, say
                )
            except NotConvertible as error:
                if backend == "openvino":
                    raise
                say(f"{error} PyTorch runs it instead.")
                machine = replace(machine, backend="torch")
                weights = choose(quantize, checkpoint, machine, precision.itemsize)
        if model is None:
            model = read_model(checkpoint, config, place, precision, weights, say)
    return Loaded(
        source.name,
        model,
        processor,
        place,
        precision,
        weights,
        decoder=decoder,
        encoder=encoder,
        checkpoint=checkpoint,
    )


def read_for_openvino(
    checkpoint: Checkpoint,
    config: Any,
    processor: Any,
    dtype: torch.dtype,
    weights: Quantize,
    say: Callable[[str], None],
) -> tuple[Any, Any, Any]:
    """The model, its decoder and its encoder; see `converted.read_converted`."""
    try:
        from sts_cli.loading.converted import read_converted
    except ImportError as error:
        raise NotConvertible(f"This OpenVINO cannot be used: {error}.") from error

    def read(stored: torch.dtype) -> Any:
        return from_folder(checkpoint.folder, config, torch.device("cpu"), stored)

    return read_converted(checkpoint, config, processor, dtype, weights, read, say)  # type: ignore[arg-type]


def untested(checkpoint: Checkpoint) -> str:
    """The message about a family that no test covers."""
    around = f" around '{checkpoint.text_type}'" if checkpoint.text_type else ""
    if checkpoint.vision_type in UNTESTED_TOWERS:
        around += f" with the vision encoder '{checkpoint.vision_type}'"
    return (
        f"untested family: '{checkpoint.model_type}'{around}. Checked against transformers on one "
        "image while loading; compare answers with --profile off."
    )


def outline(name: str, checkpoint: Checkpoint) -> Family:
    """A model's family, processor and shape, with no weights in it. Raises ModelError."""
    with quiet(), explained(name):
        config = read_config(checkpoint.folder)
        model = skeleton(config)
        refuse(model)
        return adapter(model, load_processor(checkpoint.folder, config))


def read_config(folder: Path) -> Any:
    """transformers' config of a checkpoint that it can run as a vision-language model."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise ModelError(
            f"'{config.model_type}' is not an image-text-to-text model of transformers."
        )
    settings = getattr(config, "quantization_config", None)
    if settings and not is_known_quantization(settings):
        raise ModelError(
            f"{folder} is quantized in a way that transformers does not know (quant_method "
            f"{settings.get('quant_method')!r} in config.json); use the model that it was made "
            "from, with --quantize."
        )
    return config


def is_known_quantization(settings: Any) -> bool:
    """True if transformers reads what a config's `quantization_config` describes."""
    from transformers.quantizers import AutoHfQuantizer

    try:
        return bool(AutoHfQuantizer.supports_quant_method(settings))
    except ValueError:  # no method is named
        return False


def read_model(
    checkpoint: Checkpoint,
    config: Any,
    device: torch.device,
    dtype: torch.dtype,
    quantize: Quantize,
    say: Callable[[str], None],
) -> Any:
    """The model in eval mode, quantized while it is read, or read as it was quantized before."""
    if quantize == "none":
        return from_folder(checkpoint.folder, config, device, dtype)
    from sts_cli.quantization import disk_cache
    from sts_cli.quantization.settings import quantization_config

    folder = disk_cache.cache_path(checkpoint, quantize, device, dtype)
    if folder is not None and disk_cache.is_complete(folder):
        return from_folder(folder, None, device, dtype)
    settings = quantization_config(quantize, config, device, dtype)
    start = time.perf_counter()
    model = from_folder(checkpoint.folder, config, device, dtype, settings)
    size = memory_needed(checkpoint, quantize, dtype.itemsize)
    slow = time.perf_counter() - start > disk_cache.LEAST_SECONDS
    if folder is not None and slow and size > disk_cache.LEAST_BYTES:
        disk_cache.store(model, checkpoint, folder, size, say)
    return model


def from_folder(
    folder: Path, config: Any, device: torch.device, dtype: torch.dtype, settings: Any = None
) -> Any:
    """The model that `from_pretrained` reads; the vision tower keeps its own attention."""
    from transformers import AutoModelForImageTextToText

    # Given as None, either would hide what the folder itself says.
    given = {"config": config, "quantization_config": settings}
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder,
        **{name: value for name, value in given.items() if value is not None},
        dtype=dtype,
        attn_implementation={"text_config": ATTENTION},
        device_map={"": device},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # to say so ourselves
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    # transformers would go on with random numbers in their place
    odd = {*wrong_shapes(model), *(key[0] for key in report["mismatched_keys"])}
    odd |= {
        key.removesuffix("scales") + "weight" if key.endswith(".scales") else key
        for key in report["missing_keys"]
    }
    if odd:
        raise ModelError(
            f"{folder} lacks {len(odd)} weights of the shape that its config.json asks for, such "
            f"as {min(odd)}; the config or the weights belong to another model."
        )
    broken = non_finite(model)
    if broken:
        remedy = ", or needs --dtype bfloat16" if dtype == torch.float16 else "; fetch it again"
        raise ModelError(
            f"{folder} has NaN or infinite numbers in {len(broken)} of its weights, such as "
            f"{broken[0]}: the model is damaged{remedy}."
        )
    return model.eval().requires_grad_(False)
