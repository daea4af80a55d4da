"""A machine of the suite's own: not the developer's models, caches, tokens and colours.

Import it before torch, transformers and huggingface_hub, which read the environment when they are
imported. Processes that tests start inherit it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping

PREFIXES = (
    "STS_",
    "HF_",
    "HUGGINGFACE_",
    "HUGGING_FACE_",
    "TRANSFORMERS_",
    "PYTORCH_TRANSFORMERS_",
)
NAMES = ("XDG_CACHE_HOME", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")


def isolated(environment: Mapping[str, str], caches: str) -> dict[str, str]:
    """`environment` without what steers sts from outside, and with caches in a folder of its own.

    Whatever has no XDG_CACHE_HOME would look in ~/.cache; the home itself stays, for Python may
    keep packages there. Tests ask for OpenVINO where they mean it: converting takes seconds.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name not in NAMES and not name.startswith(PREFIXES)
    }
    return {**kept, "XDG_CACHE_HOME": caches, "STS_BACKEND": "torch"}


def isolate() -> None:
    """Change this process's environment so, until it ends."""
    caches = tempfile.mkdtemp(prefix="sts-tests-")
    atexit.register(shutil.rmtree, caches, ignore_errors=True)
    environment = isolated(os.environ, caches)
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)


isolate()
