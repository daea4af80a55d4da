"""A profile as the text of a file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import yaml

from sts_cli.profile import Cut, Profile, spelled
from sts_cli.profile_files.keys import ESCALATE, SETTINGS, SHORT


def as_yaml(profile: Profile) -> str:
    """The text of a file that `parse` reads as this profile, but for its name.

    A profile that it escalates to is named, so it must be one that ships.
    """
    data: dict[str, Any] = {"about": profile.about} if profile.about else {}
    depths = [bool(cut.depth) for cut in profile.cuts]
    if depths in ([False], [True], [False, True]):
        data |= {SHORT[cut.depth > 0]: _spelled(cut) for cut in profile.cuts}
    elif profile.cuts:
        data["cuts"] = [_spelled(cut) for cut in profile.cuts]
    if profile.encoder is not None:
        data["encoder"] = asdict(profile.encoder)
    if profile.guide is not None:
        data["guide"] = profile.guide
    settings = {name: getattr(profile, name) for name in SETTINGS}
    data |= {name: value for name, value in settings.items() if value not in (None, "plain")}
    if profile.escalate is not None:
        step = {**asdict(profile.escalate), "to": profile.escalate.to.name}
        data["escalate"] = {key: step[key] for key in ESCALATE if step[key] is not None}
    return yaml.safe_dump(data, default_flow_style=None, sort_keys=False, width=100)


def _spelled(cut: Cut) -> dict[str, Any]:
    depth = {"depth": cut.depth} if cut.depth else {}
    return {"method": cut.method, **depth, "keep": spelled(cut.keep), **cut.options}
