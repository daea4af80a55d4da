"""Says whether OpenVINO can be used here. Imports nothing that costs time."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

FIRST, BEFORE = (2026, 0), (2027, 0)  # versions that were tested, or are near those
PACKAGE = "sts-cli[openvino]"


def problem() -> str | None:
    """The reason why OpenVINO cannot be used, in one sentence; None if it can."""
    try:
        found = version("openvino")
    except PackageNotFoundError:
        return f"OpenVINO is not installed; run 'pip install {PACKAGE}'."
    parts = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if not FIRST <= parts < BEFORE:
        return (
            f"OpenVINO {found} is installed, but sts needs a version from {FIRST[0]}.{FIRST[1]} "
            f"and below {BEFORE[0]}; run 'pip install -U {PACKAGE}'."
        )
    if platform.machine().lower() not in ("x86_64", "amd64", "arm64", "aarch64"):
        return f"OpenVINO does not run on {platform.machine()}."
    return None
