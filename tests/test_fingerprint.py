"""A checkpoint that changed is known by the files that changed, and a copy as the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from sts_cli.checkpoints.checkpoint import examine
from sts_cli.checkpoints.fingerprint import (
    changed,
    fingerprint,
    weight,
    weights_digest,
    without_times,
)
from sts_cli.quantization.disk_cache import cache_path


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def edit(path: Path, at: int) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


READ = (
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def test_every_file_that_is_read_counts(folder: Path):
    before = fingerprint(examine(folder))
    assert {*READ, "model.safetensors"} <= before.keys()
    for name in READ:
        (folder / name).write_text((folder / name).read_text() + "\n")
    assert set(changed(before, fingerprint(examine(folder)))) == set(READ)
    (folder / "preprocessor_config.json").write_text("{}")
    assert "preprocessor_config.json" in changed(before, fingerprint(examine(folder)))


def test_what_is_not_read_does_not_count(folder: Path):
    before = fingerprint(examine(folder))
    (folder / "README.md").write_text("a model")
    (folder / "optimizer.pt").write_bytes(b"x")
    assert fingerprint(examine(folder)) == before


def test_one_changed_weight_counts_wherever_it_is(folder: Path):
    weights = folder / "model.safetensors"
    for at in (-1, weights.stat().st_size // 2 + 1):
        before = fingerprint(examine(folder))
        edit(weights, at)
        assert changed(before, fingerprint(examine(folder))) == ["model.safetensors"]


def test_weights_trained_on_count_even_with_the_time_of_before(tmp_path: Path):
    large = tmp_path / "model.safetensors"
    large.write_bytes(bytes(5 << 20))
    before, facts = weight(large), large.stat()
    with large.open("r+b") as file:
        file.seek(4 << 20)
        file.write(b"\1" * (1 << 20))
    os.utime(large, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert weight(large) != before


def test_a_copy_is_the_same_but_for_its_time(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    os.utime(copy / "model.safetensors", ns=(0, 0))
    one, other = fingerprint(examine(folder)), fingerprint(examine(copy))
    assert changed(one, other) == ["model.safetensors"]
    assert without_times(one) == without_times(other)
    assert changed(one, without_times(other)) == []


def test_in_the_hubs_cache_the_name_says_it_all(folder: Path, tmp_path: Path):
    """There, a file is a link to another that is called by its SHA-256."""
    blob = tmp_path / ("0123456789abcdef" * 4)
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    before = fingerprint(examine(folder))
    os.utime(blob, ns=(0, 0))
    assert fingerprint(examine(folder)) == before
    other = tmp_path / ("fedcba9876543210" * 4)
    blob.rename(other)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(other)
    assert changed(before, fingerprint(examine(folder))) == ["model.safetensors"]


def test_a_kept_quantized_model_is_another_after_any_of_them_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STS_CACHE", str(tmp_path / "cache"))
    places = [cache_path(examine(folder), "int8", torch.device("cpu"), torch.float32)]
    for name in READ:
        (folder / name).write_text((folder / name).read_text() + "\n")
        places.append(cache_path(examine(folder), "int8", torch.device("cpu"), torch.float32))
    assert len(set(places)) == len(READ) + 1


def test_one_digest_of_the_weights_wherever_they_are(folder: Path, tmp_path: Path):
    whole = weights_digest(examine(folder))
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "generation_config.json").write_text("{}")
    assert weights_digest(examine(tmp_path / "copy")) == whole
    edit(tmp_path / "copy" / "model.safetensors", -1)
    assert weights_digest(examine(tmp_path / "copy")) != whole
