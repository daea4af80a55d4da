"""Models of the Hugging Face hub: found in the user's cache, or downloaded on request."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sts_cli.checkpoints.checkpoint import examine_config
from sts_cli.checkpoints.weights import find_shards
from sts_cli.errors import ModelError

SMALL = ["*.json", "*.jinja", "*.txt", "tokenizer.model", "spiece.model"]
IGNORED = ["*/*", "consolidated*", "*.bin", "*.onnx"]
HUB_ID = re.compile(  # the same names as huggingface_hub accepts
    r"(?!.*(?:--|\.\.|\.git$))[a-z0-9](?:[\w.-]{0,94}\w)?/[a-z0-9](?:[\w.-]{0,94}\w)?",
    re.ASCII | re.IGNORECASE,
)


def is_hub_id(name: str) -> bool:
    """True if `name` has the form `organisation/model`."""
    return HUB_ID.fullmatch(name) is not None


def cache_folder() -> Path:
    """The folder of the hub's cache, by the rules that huggingface_hub documents."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.path.expanduser(os.environ["HF_HUB_CACHE"]))  # ~unknown is not changed
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    home = Path(os.environ.get("HF_HOME", caches / "huggingface"))
    return Path(os.path.expanduser(home)) / "hub"


def is_offline() -> bool:
    """True if the user's environment forbids connections to the hub."""
    return any(
        os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def cached(name: str) -> Path | None:
    """The snapshot folder of the hub id `name` in the cache, or None without its config.json."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", cache_dir=cache_folder())
    return Path(config).parent if isinstance(config, str) else None


def has_weights(snapshot: Path) -> bool:
    """True if a snapshot has all its weight files.

    An interrupted download lacks some. A download of the small files alone has none.
    """
    try:
        find_shards(snapshot)
    except ModelError:
        return False
    return True


def cached_ids() -> list[str]:
    """The ids of all models in the cache, sorted."""
    folders = cache_folder().glob("models--*--*")
    names = (folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders)
    return sorted(filter(is_hub_id, names))


def fetch(name: str, say: Callable[[str], None], check: Callable[[Path], None]) -> Path:
    """Download `name` into the cache: small files first, weights after all checks passed.

    `check` gets the folder before the weights are downloaded, and may raise ModelError. Only
    safetensors, JSON and tokenizer files are fetched. Returns the folder. Raises ModelError.
    """
    folder = Path(download(name, SMALL))
    examine_config(folder, name)
    check(folder)
    wanted = download(name, [*SMALL, "*.safetensors"], dry_run=True)
    if not any(file.filename.endswith(".safetensors") for file in wanted):
        raise ModelError(f"'{name}' has no safetensors weights. sts does not open pickle files.")
    size = sum(file.file_size for file in wanted if file.will_download)
    free = shutil.disk_usage(cache_folder()).free
    if size > free:
        raise ModelError(
            f"'{name}' needs {size / 1e9:.1f} GB, but {cache_folder()} has only "
            f"{free / 1e9:.1f} GB. Free some space, or set HF_HOME to a folder on a larger disk."
        )
    say(f"Downloading {name} ({size / 1e9:.1f} GB) to {cache_folder()}")
    return Path(download(name, [*SMALL, "*.safetensors"]))


def download(name: str, patterns: list[str], **options: Any) -> Any:
    """The result of huggingface_hub's download of these files. Raises ModelError."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(
            name,
            cache_dir=cache_folder(),
            allow_patterns=patterns,
            ignore_patterns=IGNORED,
            tqdm_class=bar(),
            **options,
        )
    except Exception as error:  # the hub's errors have no other common base class
        raise ModelError(download_error(name, error)) from error


def download_error(name: str, error: Exception) -> str:
    """The message about a failed download of `name`."""
    classes = [base.__name__ for base in type(error).__mro__]
    if "GatedRepoError" in classes:
        return (
            f"'{name}' is gated: accept its terms at https://huggingface.co/{name}, then run "
            "'hf auth login'."
        )
    if "RepositoryNotFoundError" in classes:
        return (
            f"The hub has no model '{name}', or it is private. Check the spelling, or run "
            "'hf auth login'."
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"Cannot write '{name}' to the cache: {error.strerror} ({error.filename})."
    return (
        f"Cannot fetch '{name}' from the hub ({type(error).__name__}). Check the connection, or "
        "give the folder of a model on this machine."
    )


def bar() -> Any:
    """The class of huggingface_hub's progress bar, hidden if stderr is no terminal."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any):
            hidden = not sys.stderr.isatty()
            super().__init__(*args, **{**kwargs, "disable": hidden or kwargs.get("disable")})

    return Bar
