"""What tells one state of a checkpoint from another, without reading all its weights. No torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sts_cli.errors import ModelError

if TYPE_CHECKING:
    from sts_cli.checkpoints.checkpoint import Checkpoint

SMALL = ("*.json", "*.jinja", "*.txt", "*.model", "additional_chat_templates/*.jinja")
CONTENT = re.compile(r"[0-9a-f]{64}")  # in the hub's cache a file is called what it holds
BLOCKS, BLOCK = 16, 1 << 16  # of the weights, spread over a file


def fingerprint(checkpoint: Checkpoint) -> dict[str, str]:
    """A digest for each file that is read when the model is loaded, by the file's name.

    Config, generation settings, processor, tokenizer and chat template by their content. Weights by
    their size, their header, samples of their content, and the time of their change, which stands
    behind a blank: the same weights have another in another place. Raises ModelError.
    """
    folder = checkpoint.folder
    small = {path for pattern in SMALL for path in folder.glob(pattern) if path.is_file()}
    try:
        texts = {name(path, folder): hashed(path.read_bytes()) for path in small}
        weights = {name(path, folder): weight(path) for path in checkpoint.weights.shards}
    except OSError as error:
        raise ModelError(f"Cannot read {error.filename}: {error.strerror}.") from error
    return dict(sorted((texts | weights).items()))


def without_times(files: Mapping[str, str]) -> dict[str, str]:
    """A fingerprint that is the same for a copy of the files."""
    return {name: digest.partition(" ")[0] for name, digest in files.items()}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The files in which two fingerprints differ."""
    return [file for file in {**before, **now} if not same(before.get(file), now.get(file))]


def same(one: str | None, other: str | None) -> bool:
    """Whether two digests are of the same file; times count where both tell them."""
    if one is None or other is None or " " in one and " " in other:
        return one == other
    return one.partition(" ")[0] == other.partition(" ")[0]


def weight(shard: Path) -> str:
    """The digest of a file of weights; with the time of its change unless its name says it all."""
    real = shard.resolve()
    facts = real.stat()
    parts = [str(facts.st_size).encode()]
    with real.open("rb") as file:
        parts.append(file.read(1 << 20))
        for number in range(BLOCKS):
            file.seek(facts.st_size * number // BLOCKS)
            parts.append(file.read(BLOCK))
    digest = hashed(b"".join(parts))
    if CONTENT.fullmatch(real.name):
        return f"{digest}-{real.name[:16]}"
    return f"{digest} {facts.st_mtime_ns}"


def name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def hashed(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
