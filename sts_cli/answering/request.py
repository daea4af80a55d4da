"""A request: how questions are answered, in one record from the command line to the batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sts_cli.profile import Profile

OFF = Profile("off")


@dataclass(frozen=True, slots=True)
class Request:
    """Profiles, and what holds for all questions under them."""

    profiles: tuple[Profile, ...]  # each question is answered under every one; the first counts
    compare: bool = False  # answer under `off`, too, and tell how the first compares
    fallbacks: tuple[Profile, ...] = ()  # for one question that does not fit into memory
    batch_size: int | None = None  # None: as many as fit, and gain something
    max_new_tokens: int | None = None  # None: what the model says
    places: bool = False  # tell where the kept tokens are

    @property
    def profile(self) -> Profile:
        """The profile that was asked for."""
        return self.profiles[0]

    @property
    def others(self) -> tuple[Profile, ...]:
        """All profiles that answers may be given under, but the first."""
        return (*self.profiles[1:], *(OFF,) * self.compare, *self.fallbacks)

    def beside_off(self) -> Request:
        """The same, also under `off`."""
        return replace(self, profiles=(*self.profiles, OFF), compare=False)
