"""Fingerprints of checkpoints: they show changed files without reading all weights. No torch."""

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
SHA256 = re.compile(r"[0-9a-f]{64}")  # a file's name in the hub's cache is its content's hash
BLOCKS, BLOCK = 16, 1 << 16  # number and bytes of the samples, spread over a file of weights


def fingerprint(checkpoint: Checkpoint) -> dict[str, str]:
    """A digest for each file that loading the model reads, by the file's name.

    For small files it is of the content. For weights it is of the size, the header and samples of
    the content; after a blank follows the file's time of change, which is different for a copy.
    Raises ModelError if a file cannot be read.
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
    """The fingerprint without times of change, so that a copy of the files has the same."""
    return {name: digest.partition(" ")[0] for name, digest in files.items()}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of the files in which two fingerprints differ, including new and missing files."""
    return [file for file in {**before, **now} if not same(before.get(file), now.get(file))]


def same(a: str | None, b: str | None) -> bool:
    """True if two digests are of the same file. Times only count if both digests have one."""
    if a is None or b is None or " " in a and " " in b:
        return a == b
    return a.partition(" ")[0] == b.partition(" ")[0]


def weights_digest(checkpoint: Checkpoint) -> str:
    """One digest of a model's weights, the same for a copy of the files, whatever its place.

    Raises ModelError if a file cannot be read.
    """
    try:
        parts = [sampled(shard.resolve()) for shard in checkpoint.weights.shards]
    except OSError as error:
        raise ModelError(f"Cannot read {error.filename}: {error.strerror}.") from error
    return hashed(" ".join(parts).encode())


def weight(shard: Path) -> str:
    """The digest of a file of weights, with its time of change unless its name is a SHA-256."""
    real = shard.resolve()
    digest, status = sampled(real), real.stat()
    if SHA256.fullmatch(real.name):
        return f"{digest}-{real.name[:16]}"
    return f"{digest} {status.st_mtime_ns}"


def sampled(file_of_weights: Path) -> str:
    """The digest of a file's size, its header and samples of its content."""
    size = file_of_weights.stat().st_size
    parts = [str(size).encode()]
    with file_of_weights.open("rb") as file:
        parts.append(file.read(1 << 20))
        for number in range(BLOCKS):
            file.seek(size * number // BLOCKS)
            parts.append(file.read(BLOCK))
    return hashed(b"".join(parts))


def name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def hashed(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
