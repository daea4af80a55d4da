"""Where a model comes from: the demo, a folder, or the Hugging Face hub. No torch."""

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
LONGEST = 200  # characters of a name that is no model, in a message


@dataclass(frozen=True, slots=True)
class Source:
    """A model that was found, and checked as far as that goes without loading it."""

    name: str  # as the user wrote it
    kind: Literal["demo", "folder", "hub"]
    checkpoint: Checkpoint | None  # None: on the hub, not here yet

    @property
    def path(self) -> Path | None:
        return None if self.checkpoint is None else self.checkpoint.folder


@dataclass(frozen=True, slots=True)
class Usable:
    """A model that is on this machine, or the reason why it cannot be used."""

    name: str
    source: Source | None
    problem: str | None = None


def find(model: str | None = None) -> Source:
    """The source of `model`; without one, of $STS_MODEL; without that, of the demo.

    Takes milliseconds. Raises ModelError: one sentence that says what to do.
    """
    name = model or os.environ.get("STS_MODEL") or DEMO
    if name == DEMO:
        return Source(name, "demo", examine(demo_folder()))
    folder = folder_of(name)
    if os.path.isdir(folder):  # unlike Path.is_dir, it takes a name of any length
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ModelError(f"{name} may not be read by you; ask for the permission.")
        return Source(name, "folder", examine(folder))
    if os.path.islink(folder):
        raise ModelError(f"{name} is a link to {os.readlink(folder)}, which is not there.")
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
        part = "only partly in the cache" if snapshot else "not in the cache"
        raise ModelError(
            f"'{name}' is {part} ({hub.cache_folder()}), and HF_HUB_OFFLINE forbids to fetch it. "
            + known_beside(name)
        )
    return Source(name, "hub", None)


def folder_of(name: str) -> Path:
    """The path that a user wrote; `~nobody` stays as it is."""
    return Path(os.path.expanduser(name))


def shown(name: str) -> str:
    """A name for a message, cut off where it is longer than any."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}..."


def no_folder(name: str) -> ModelError:
    """For the path of a folder that is not there."""
    folder = folder_of(name)
    try:
        beside = sorted(map(str, folder.parent.iterdir()))
    except (OSError, ValueError):  # none, none of ours, or a name that no file can have
        beside = []
    return ModelError(f"No folder '{shown(name)}'.{did_you_mean(str(folder), beside)}")


def unknown(name: str) -> ModelError:
    """For a word that is neither a folder nor a hub id."""
    return ModelError(
        f"No model '{shown(name)}': not a folder, and a hub id looks like organisation/model. "
        + known_beside(name)
    )


def fetched(source: Source, say: Callable[[str], None], check: Callable[[Path], None]) -> Source:
    """`source` with its files on this machine, downloaded if they were not; `say` tells so.

    `check` may refuse a folder by its config before weights are downloaded.
    """
    if source.checkpoint is not None:
        return source
    return replace(source, checkpoint=examine(hub.fetch(source.name, say, check), source.name))


def demo_folder() -> Path:
    """The demo model's files inside the package."""
    folder = Path(str(files("sts_cli"))) / "demo"
    if not (folder / "config.json").is_file():
        raise ModelError(
            "This installation has no demo model; reinstall sts-cli, or give --model a folder or "
            "a hub id."
        )
    return folder


def known() -> list[str]:
    """The names of models on this machine that `find` takes, whether or not they work."""
    wished = os.environ.get("STS_MODEL")
    return list(dict.fromkeys([DEMO, *([wished] if wished else []), *hub.cached_ids()]))


def known_beside(name: str) -> str:
    """What a user who asked for `name`, which is not here, may have meant."""
    others = [one for one in known() if one != name]
    return f"Known here: {', '.join(others)}.{did_you_mean(name, others)}"


def usable() -> list[Usable]:
    """Every model on this machine: the demo, $STS_MODEL, and vision models in the hub cache."""
    listed = []
    for name in known():
        try:
            source = find(name)
        except NoVision:
            continue  # the cache holds models for other tools, too
        except ModelError as error:
            listed.append(Usable(name, None, str(error)))
        else:
            listed.append(Usable(name, source))
    return listed
