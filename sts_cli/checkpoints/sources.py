"""Sources of models: the demo, a folder, or the Hugging Face hub. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from sts_cli.checkpoints import hub
from sts_cli.checkpoints.checkpoint import Checkpoint, NoVision, examine
from sts_cli.errors import ModelError, did_you_mean

DEMO = "demo"
LONGEST = 200  # characters of an unknown name that a message shows


@dataclass(frozen=True, slots=True)
class Source:
    """A model that was found, with all checks done that do not load it."""

    name: str  # as the user wrote it
    kind: Literal["demo", "folder", "hub"]
    checkpoint: Checkpoint | None  # None: on the hub, not here yet

    @property
    def path(self) -> Path | None:
        return None if self.checkpoint is None else self.checkpoint.folder


@dataclass(frozen=True, slots=True)
class Usable:
    """A model on this machine, or the reason why it cannot be used."""

    name: str
    source: Source | None
    problem: str | None = None


def find(model: str | None = None) -> Source:
    """The source of `model`, else of $STS_MODEL, else of the demo.

    Takes milliseconds. Raises ModelError with the reason and what to do.
    """
    name = model or os.environ.get("STS_MODEL") or DEMO
    if name == DEMO:
        return Source(name, "demo", examine(demo_folder()))
    folder = folder_of(name)
    if os.path.isdir(folder):  # unlike Path.is_dir, it takes a name of any length
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ModelError(f"You may not read {name}; ask its owner for the permission.")
        return Source(name, "folder", examine(folder))
    if os.path.islink(folder):
        raise ModelError(f"{name} is a link to {os.readlink(folder)}, which does not exist.")
    if os.path.exists(folder):
        raise ModelError(f"{name} is a file; give the folder of the model.")
    if not hub.is_hub_id(name):
        raise no_folder(name) if len(folder.parts) > 1 else unknown(name)
    snapshot = hub.cached(name)
    if snapshot is not None and hub.has_weights(snapshot):
        return Source(name, "hub", examine(snapshot, name))
    if snapshot is None and os.path.isdir(folder.parent):
        raise no_folder(name)
    if hub.is_offline():
        state = "only partly in the cache" if snapshot else "not in the cache"
        raise ModelError(
            f"'{name}' is {state} ({hub.cache_folder()}), and HF_HUB_OFFLINE forbids a download. "
            + suggestions(name)
        )
    return Source(name, "hub", None)


def folder_of(name: str) -> Path:
    """The path that a user wrote, with `~` expanded; `~unknown` is not changed."""
    return Path(os.path.expanduser(name))


def shortened(name: str) -> str:
    """The first LONGEST characters of a name, for a message."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}..."


def no_folder(name: str) -> ModelError:
    """The error about the path of a folder that does not exist."""
    folder = folder_of(name)
    try:
        siblings = sorted(map(str, folder.parent.iterdir()))
    except (OSError, ValueError):  # no such folder, no permission, or a name that no file can have
        siblings = []
    return ModelError(f"No folder '{shortened(name)}'.{did_you_mean(str(folder), siblings)}")


def unknown(name: str) -> ModelError:
    """The error about a name that is neither a folder nor a hub id."""
    return ModelError(
        f"No model '{shortened(name)}': not a folder, and a hub id looks like organisation/model. "
        + suggestions(name)
    )


def fetched(source: Source, say: Callable[[str], None], check: Callable[[Path], None]) -> Source:
    """`source` with its files on this machine. Downloads missing files and tells `say`.

    `check` gets the folder before the weights are downloaded, and may raise ModelError.
    """
    if source.checkpoint is not None:
        return source
    return replace(source, checkpoint=examine(hub.fetch(source.name, say, check), source.name))


def demo_folder() -> Path:
    """The folder of the demo model inside the package. Raises ModelError if it is missing."""
    folder = Path(str(files("sts_cli"))) / "demo"
    if not (folder / "config.json").is_file():
        raise ModelError(
            "This installation has no demo model. Install sts again (sts docs install), or give "
            "--model a folder or a hub id."
        )
    return folder


def known() -> list[str]:
    """The names of all models on this machine, including those that do not work."""
    wished = os.environ.get("STS_MODEL")
    return list(dict.fromkeys([DEMO, *([wished] if wished else []), *hub.cached_ids()]))


def suggestions(name: str) -> str:
    """The end of a message about the missing model `name`: the known models, and a similar one."""
    others = [other for other in known() if other != name]
    return f"Known here: {', '.join(others)}.{did_you_mean(name, others)}"


def usable() -> list[Usable]:
    """Every model on this machine: the demo, $STS_MODEL, and vision models in the hub cache."""
    listed = []
    for name in known():
        try:
            source = find(name)
        except NoVision:
            continue  # the cache also holds models for other programs
        except ModelError as error:
            listed.append(Usable(name, None, str(error)))
        else:
            listed.append(Usable(name, source))
    return listed
