"""OpenVINO's models on disk, piece by piece, so that a language model is converted once."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import openvino as ov
import torch
import transformers

from sts_cli.checkpoints.checkpoint import Checkpoint
from sts_cli.checkpoints.fingerprint import fingerprint
from sts_cli.openvino.ready import NotConvertible
from sts_cli.openvino.weights import Weights
from sts_cli.quantization.choice import quantized_folder
from sts_cli.quantization.disk_cache import remove_stale

LAYOUT = 2  # of what we keep; a new number forgets the old


def place(checkpoint: Checkpoint, weights: Weights, dtype: torch.dtype) -> Path | None:
    """The folder for this checkpoint's pieces, whether or not it is there; None: keep nothing.

    Its name changes with the files, and with everything that changes a piece.
    """
    folder = quantized_folder()
    if folder is None:
        return None
    versions = (ov.get_version(), transformers.__version__, torch.__version__)
    parts = ("openvino", LAYOUT, weights, dtype), versions, fingerprint(checkpoint)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:20]
    return folder / f"{checkpoint.model_type}-openvino-{weights}-{key}"


class Shelf:
    """Models by name. With a folder they are kept there, and mapped, not read.

    A piece is whole or not there: it is written beside and renamed. What an interrupted conversion
    has made is used by the next.
    """

    def __init__(self, folder: Path | None, say: Callable[[str], None] = lambda message: None):
        self.folder, self.say = folder, say
        self.core = ov.Core()
        self.writes = folder is not None
        self.made: dict[str, ov.Model] = {}  # what is not on disk
        self.checked: dict[str, ov.Model] = {}  # by `check`, for the first `find`

    def has(self, name: str) -> bool:
        """True if the piece is on disk."""
        return self.folder is not None and (self.folder / f"{name}.xml").is_file()

    def names(self, pattern: str) -> list[str]:
        """The pieces on disk whose names match `pattern`."""
        found = [] if self.folder is None else self.folder.glob(f"{pattern}.xml")
        return sorted(path.stem for path in found)

    def find(self, name: str) -> ov.Model | None:
        """The model `name`, which the caller may take apart; a damaged one is removed."""
        if name in self.made:
            return self.made[name].clone()
        if name in self.checked:
            return self.checked.pop(name)
        if self.folder is None or not self.has(name):
            return None
        file = self.folder / f"{name}.xml"
        try:
            return self.core.read_model(file)
        except RuntimeError:
            file.unlink()
            return None

    def check(self, name: str) -> bool:
        """True if a piece is there and not damaged. It is not read again for the first `find`."""
        model = self.find(name)
        if model is not None and name not in self.made:
            self.checked[name] = model
        return model is not None

    def read(self, name: str, make: Callable[[], ov.Model]) -> ov.Model:
        """As `find`; made and kept if there is none. Raises NotConvertible."""
        found = self.find(name)
        if found is None:
            try:
                model = make()
            except Exception as error:  # the frontend's are of no class of their own
                words = " ".join(str(error).split())
                if KeyboardInterrupt.__name__ in words:  # Ctrl-C, which the frontend wraps
                    raise KeyboardInterrupt from error
                raise NotConvertible(
                    f"OpenVINO cannot take this model ({name}): {words[:200]}"
                ) from error
            if not self._keep(name, model):
                self.made[name] = model
            found = self.find(name)
        assert found is not None
        return found

    def compile(self, model: ov.Model, settings: Mapping[str, str]) -> ov.CompiledModel:
        """A model that can run. Raises NotConvertible."""
        try:
            return self.core.compile_model(model, "CPU", {**threads(), **settings})
        except RuntimeError as error:
            words = " ".join(str(error).split())
            raise NotConvertible(f"OpenVINO cannot compile this model: {words[:200]}") from error

    def _keep(self, name: str, model: ov.Model) -> bool:
        """Write a model, at once or not at all. A disk without room costs time, no more."""
        if not self.writes or self.folder is None:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_stale(self.folder)
            if shutil.disk_usage(self.folder).free < 2 * weight_bytes(model):
                raise OSError(f"too little space in {self.folder}")
            with tempfile.TemporaryDirectory(prefix="part-", dir=self.folder) as part:
                file = Path(part) / f"{name}.xml"
                ov.save_model(model, file, compress_to_fp16=False)
                self.core.read_model(file)  # raises if less was written than should be
                file.with_suffix(".bin").replace(self.folder / f"{name}.bin")
                file.replace(self.folder / f"{name}.xml")  # last: with it the piece is there
        except (OSError, RuntimeError) as error:
            words = " ".join(str(error).split())
            self.say(f"Not keeping the converted model: {words[:200]}")
            self.writes = False
        return self.writes


def threads() -> dict[str, str]:
    """As many threads as PyTorch has, bound to no core: two processes would share their cores."""
    return {"INFERENCE_NUM_THREADS": str(torch.get_num_threads()), "ENABLE_CPU_PINNING": "NO"}


def whole(shelf: Shelf, layers: int) -> bool:
    """True if a language model of so many layers is on disk, so that none needs its weights."""
    names = ["head", *(f"layer-{layer}" for layer in range(layers))]
    return all(shelf.check(name) for name in names)


def weight_bytes(model: ov.Model) -> int:
    """Bytes of a model's constants."""
    return sum(
        node.get_byte_size() for node in model.get_ops() if node.get_type_name() == "Constant"
    )
