"""Models of the Hugging Face hub: in the user's cache, or fetched when the user named one."""

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
NOT = ["*/*", "consolidated*", "*.bin", "*.onnx"]
HUB_ID = re.compile(  # as huggingface_hub takes it
    r"(?!.*(?:--|\.\.|\.git$))[a-z0-9](?:[\w.-]{0,94}\w)?/[a-z0-9](?:[\w.-]{0,94}\w)?",
    re.ASCII | re.IGNORECASE,
)


def is_hub_id(name: str) -> bool:
    """Whether `name` looks like `organisation/model`."""
    return HUB_ID.fullmatch(name) is not None


def cache_folder() -> Path:
    """The hub cache, found as huggingface_hub documents it."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.path.expanduser(os.environ["HF_HUB_CACHE"]))  # ~nobody stays as it is
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    home = Path(os.environ.get("HF_HOME", caches / "huggingface"))
    return Path(os.path.expanduser(home)) / "hub"


def is_offline() -> bool:
    """Whether the user said that the hub must not be asked."""
    return any(
        os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def cached(name: str) -> Path | None:
    """The snapshot folder of a hub id in the cache, if its config is there."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", cache_dir=cache_folder())
    return Path(config).parent if isinstance(config, str) else None


def has_weights(snapshot: Path) -> bool:
    """Whether a snapshot has all weight files that belong to it.

    A download that was interrupted has fewer; a look at a model leaves none.
    """
    try:
        find_shards(snapshot)
    except ModelError:
        return False
    return True


def cached_ids() -> list[str]:
    """The ids of all models in the cache, sorted."""
    folders = cache_folder().glob("models--*--*")
    names = (one.name.removeprefix("models--").replace("--", "/", 1) for one in folders)
    return sorted(filter(is_hub_id, names))


def fetch(name: str, say: Callable[[str], None], check: Callable[[Path], None]) -> Path:
    """Download `name` into the cache: config first, weights once it is known to be of use.

    `check` is given the folder before there are weights in it, and may refuse. Only safetensors,
    JSON and tokenizer files are fetched. Raises ModelError.
    """
    folder = Path(get(name, SMALL))
    examine_config(folder, name)
    check(folder)
    wanted = get(name, [*SMALL, "*.safetensors"], dry_run=True)
    if not any(file.filename.endswith(".safetensors") for file in wanted):
        raise ModelError(f"'{name}' has no safetensors weights; sts opens no pickle files.")
    size = sum(file.file_size for file in wanted if file.will_download)
    free = shutil.disk_usage(cache_folder()).free
    if size > free:
        raise ModelError(
            f"'{name}' needs {size / 1e9:.1f} GB, but {cache_folder()} has "
            f"{free / 1e9:.1f} GB left; free some, or set HF_HOME to a larger disk."
        )
    say(f"Downloading {name} ({size / 1e9:.1f} GB) to {cache_folder()}")
    return Path(get(name, [*SMALL, "*.safetensors"]))


def get(name: str, patterns: list[str], **options: Any) -> Any:
    """What huggingface_hub makes of these files of a model. Raises ModelError."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(
            name,
            cache_dir=cache_folder(),
            allow_patterns=patterns,
            ignore_patterns=NOT,
            tqdm_class=bar(),
            **options,
        )
    except Exception as error:  # the hub's errors have no common base beside this
        raise ModelError(explain(name, error)) from error


def explain(name: str, error: Exception) -> str:
    """One sentence for what went wrong between us and the hub."""
    kind = [base.__name__ for base in type(error).__mro__]
    if "GatedRepoError" in kind:
        return (
            f"'{name}' is gated: accept its terms at https://huggingface.co/{name}, then run "
            "'hf auth login'."
        )
    if "RepositoryNotFoundError" in kind:
        return (
            f"The hub has no model '{name}', or it is private; check the spelling, or run "
            "'hf auth login'."
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"Cannot write '{name}' to the cache: {error.strerror} ({error.filename})."
    return (
        f"Cannot fetch '{name}' from the hub ({type(error).__name__}); check the connection, or "
        "give the folder of a model that is already here."
    )


def bar() -> Any:
    """huggingface_hub's progress bar, silent where stderr is no terminal."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any):
            hidden = not sys.stderr.isatty()
            super().__init__(*args, **{**kwargs, "disable": hidden or kwargs.get("disable")})

    return Bar
