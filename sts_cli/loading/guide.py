"""The guide of a run, a smaller model that answers first: what fits, before any is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from sts_cli.checkpoints.sources import Source, find
from sts_cli.errors import ModelError, ProfileError
from sts_cli.profile import Profile

CROSS = "mllama"


def guide_source(source: Source, profiles: Sequence[Profile]) -> Source | None:
    """The source of the guide that `profiles` share beside the model of `source`, if they have one.

    A guide's scores move to the model's tokens by their places in the picture, which are known for
    tested families alone. Raises ProfileError.
    """
    asked = {one.guide: one.name for wanted in profiles for one in wanted.ladder if one.guide}
    if len(asked) > 1:
        wishes = " and ".join(f"'{name}' has {guide}" for guide, name in asked.items())
        raise ProfileError(f"{wishes} as guide, but all profiles of a run share one.")
    for guide, name in asked.items():
        where = f"Profile '{name}': guide '{guide}'"
        try:
            found = find(guide)
        except ModelError as error:
            raise ProfileError(f"{where} cannot be used: {error}") from error
        for one, what in ((found, where), (source, f"{where} does not fit '{source.name}', which")):
            if one.checkpoint is not None and not one.checkpoint.tested:
                raise ProfileError(f"{what} is of the untested family " + reason(one))
            if one.checkpoint is not None and one.checkpoint.model_type == CROSS:
                raise ProfileError(
                    f"{what} is of the family '{CROSS}', which reads images by cross-attention: "
                    "guides were not tested with it."
                )
        return found
    return None


def reason(source: Source) -> str:
    """The end of a message about a model whose tokens have no known places."""
    assert source.checkpoint is not None
    kind = source.checkpoint.model_type
    return f"'{kind}': the places of its visual tokens are not known, so no score can be moved."
