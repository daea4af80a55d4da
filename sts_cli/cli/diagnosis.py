"""The facts, problems and advice of `sts doctor` on this machine and installation."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sts_cli import __version__
from sts_cli.checkpoints import hub
from sts_cli.checkpoints.sources import demo_folder
from sts_cli.errors import ModelError
from sts_cli.machine import hardware
from sts_cli.machine.libraries import check_libraries
from sts_cli.machine.packages import EXTRAS, Extra, to_install
from sts_cli.openvino import ready
from sts_cli.quantization.choice import quantized_folder

NEEDED = (
    "torch",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "safetensors",
    "accelerate",
    "bitsandbytes",
    "pillow",
)
VISION = Extra("models of Pixtral; others run faster with it", {"torchvision": "torchvision"})
SCARCE = 1_000_000_000  # free bytes of memory; less will cause problems


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Facts by topic, and problems as sentences that say what to do."""

    facts: dict[str, dict[str, Any]]
    problems: tuple[str, ...]
    advice: tuple[str, ...]  # improvements that nothing depends on


def diagnose() -> Diagnosis:
    """All facts, problems and advice. Imports torch and transformers, if possible."""
    problems: list[str] = []
    advice: list[str] = []
    facts = {
        "versions": versions(problems),
        "processor": processor(problems, advice),
        "device": device(problems, advice),
        "folders": folders(problems),
        "optional": optional(),
    }
    return Diagnosis(facts, tuple(problems), tuple(advice))


def installed(package: str) -> str | None:
    """The version of a package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions(problems: list[str]) -> dict[str, Any]:
    numbers = {package: installed(package) for package in NEEDED}
    missing = [package for package, number in numbers.items() if number is None]
    if missing:
        problems.append(f"Missing: {', '.join(missing)}; run: {to_install(*missing)}")
    system = {"system": platform.platform(), "python": platform.python_version()}
    return {"sts": __version__, **system, **numbers}


def processor(problems: list[str], advice: list[str]) -> dict[str, Any]:
    """CPU, memory, threads and load."""
    features = hardware.cpu_features()
    usable, cores = hardware.threads_and_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    free, total = hardware.memory() or (None, None)
    if free is not None and free < SCARCE:
        problems.append(f"Only {free / 1e9:.1f} GB of memory are free; close other programs.")
    if features and not any(name in features for name in hardware.FAST_BFLOAT16):
        advice.append(
            "This CPU has no fast bfloat16; --quantize int8 at least halves a model, and is faster "
            "with OpenVINO."
        )
    if load is not None and load > usable:
        advice.append(
            f"The load is {load:.1f} on {usable} cores: other programs run, so times will vary."
        )
    return {
        "name": hardware.cpu_name(),
        "features": list(features),
        "cores": cores,
        "usable_cores": usable,
        "load": None if load is None else round(load, 2),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "memory_free": free,
        "memory_total": total,
    }


def backend(device: str, advice: list[str]) -> str:
    """The backend that `auto` takes for a tested family on this device."""
    reason = ready.problem()
    if device == "cpu" and reason is not None:
        advice.append(f"Answers on a CPU are faster with OpenVINO. {reason}")
    return "openvino" if device == "cpu" and reason is None else "torch"


def device(problems: list[str], advice: list[str]) -> dict[str, Any]:
    """The device and precision for models, and the CPU or GPU support of torch."""
    try:
        check_libraries()
    except ModelError as error:
        problems.append(str(error))
        return {}
    import torch

    chosen = hardware.choose_device()
    facts: dict[str, Any] = {
        "device": str(chosen),
        "dtype": str(hardware.choose_dtype("auto", chosen)).removeprefix("torch."),
        "backend": backend(chosen.type, advice),
        "threads": torch.get_num_threads(),
        "torch_cpu_kernels": torch.backends.cpu.get_cpu_capability(),
        "torch_cuda": torch.version.cuda,
        "gpus": [gpu(number) for number in range(torch.cuda.device_count())],
    }
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        reason = "is the CPU build" if torch.version.cuda is None else "cannot reach it"
        problems.append(
            f"There is an NVIDIA driver here, but this PyTorch {reason}; install a build for "
            "your driver's CUDA from pytorch.org."
        )
    return facts


def gpu(number: int) -> dict[str, Any]:
    import torch

    free, total = torch.cuda.mem_get_info(number)
    return {
        "name": torch.cuda.get_device_name(number),
        "memory_free": free,
        "memory_total": total,
        "bfloat16": torch.cuda.is_bf16_supported(False),
    }


def folders(problems: list[str]) -> dict[str, Any]:
    """The folders that models are read from and written to."""
    try:
        demo: str | None = str(demo_folder())
    except ModelError as error:
        demo = None
        problems.append(str(error))
    quantized = quantized_folder()
    return {
        "demo": demo,
        "model": os.environ.get("STS_MODEL"),
        "hub_cache": str(hub.cache_folder()),
        "hub_cache_models": len(hub.cached_ids()),
        "hub_offline": hub.is_offline(),
        "hub_disk_free": disk_free(hub.cache_folder()),
        "quantized": None if quantized is None else str(quantized),
        "quantized_bytes": 0 if quantized is None else folder_bytes(quantized),
    }


def disk_free(folder: Path) -> int:
    """Free bytes on the disk of `folder`, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def optional() -> dict[str, Any]:
    """Packages that some models or options need: version, purpose, and how to install them."""
    told = {}
    for extra in (*EXTRAS.values(), VISION):
        command = to_install(*extra.packages.values())
        for module, asked in extra.packages.items():
            number = installed(named(asked)) if find_spec(module) else None
            install = None if number else command
            told[module] = {"version": number, "for": extra.purpose, "install": install}
    return told


def named(requirement: str) -> str:
    """The package that a requirement such as `ray[data]>=2.60` is about."""
    return re.split(r"[^\w.-]", requirement)[0]
