"""Pruning methods: one file each, found by its name. No torch here: profiles are checked before it.

A method is a frozen dataclass in a file of its own: `random.py` holds `Random`. Its fields are the
options that a profile may set, each with a default: a number with a `Range`, or a `Literal` of
words. Its docstring's first line says what it keeps. `needs` names what it must see besides the
tokens, and `cut` chooses. Another package brings a method by an entry point of the group
"sts.pruning", whose name is the method's and whose object is the dataclass.

What every method has in common belongs to the engine: text is never pruned, budgets are exact, each
image of a question keeps its part, and sizes are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    get_args,
    get_origin,
    get_type_hints,
)

from sts_cli.errors import ProfileError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "sts.pruning"
Need = Literal["attention", "question", "seed"]
NEEDS: tuple[Need, ...] = get_args(Need)


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that an option takes, both ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Look:
    """N visual tokens, in the order of the prompt, as a method sees them.

    Before the first layer they are one image's, deeper in they are all of one question's. What a
    method does not name in `needs` is None.
    """

    features: Tensor  # [N, D]; as the language model sees them at this depth
    grid: Tensor  # [N, 2]; row and column in the image, each in 0..1
    image: Tensor  # [N]; which image of its question a token shows
    size: Tensor  # [N]; how many of the image's tokens each stands for
    attention: Tensor | None = None  # [N]; what the watched rows paid to each, mean over heads
    question: Tensor | None = None  # [Q, D]; the words after the last image
    seed: int | None = None  # of the images' content, for methods that draw


@dataclass(frozen=True, slots=True)
class Cutting:
    """The tokens that stay, and where the others go."""

    keep: Tensor  # [K]; sorted indices into the tokens of a Look
    into: Tensor | None = None  # [N]; the kept index that each token is merged into; None: dropped


class Method(Protocol):
    """A way to choose tokens. Pure: equal looks give equal cuttings."""

    needs: tuple[Need, ...]

    def cut(self, look: Look, count: int) -> Cutting:
        """Exactly `count` of the look's N tokens, 1 <= count < N."""
        ...


@cache
def names() -> tuple[str, ...]:
    """The names of all methods: those that ship, then those of other packages, each sorted.

    Looked up once, as `find` is: every cut of every batch asks.
    """
    own = sorted(
        entry.name.removesuffix(".py")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".py") and not entry.name.startswith("_")
    )
    return *own, *sorted(name for name in from_elsewhere() if name not in own)


@cache
def find(name: str) -> type[Any]:
    """The dataclass of the method `name`. Raises ProfileError."""
    known = names()
    if name not in known:
        raise ProfileError(
            f"No method '{name}'. Known: {', '.join(known)}.{did_you_mean(name, known)}"
        )
    elsewhere = from_elsewhere().get(name)
    if (files(__name__) / f"{name}.py").is_file():
        if elsewhere is not None:
            raise ProfileError(
                f"The method '{name}' of {elsewhere.value} has the name of one that ships with "
                "sts. Uninstall that package, or rename its entry point."
            )
        module = import_module(f"{__name__}.{name}")
        found: type[Any] = getattr(module, name.title().replace("_", ""))
        return found
    assert elsewhere is not None
    try:
        brought: type[Any] = elsewhere.load()
    except Exception as error:  # another package's import may raise anything
        raise ProfileError(
            f"The method '{name}' of {elsewhere.value} cannot be imported: {error}."
        ) from error
    unknown = sorted(set(brought.needs) - set(NEEDS))
    if unknown:
        raise ProfileError(
            f"The method '{name}' of {elsewhere.value} needs {', '.join(unknown)}, which this "
            f"version of sts does not show. It shows: {', '.join(NEEDS)}."
        )
    return brought


def build(name: str, options: Mapping[str, float | str]) -> Method:
    """The method `name` with its options, which `options_of` has checked."""
    method: Method = find(name)(**options)
    return method


def about(name: str) -> str:
    """One line on what a method keeps."""
    return (find(name).__doc__ or "").strip().splitlines()[0].rstrip(".")


def options_of(name: str) -> dict[str, Range | tuple[str, ...]]:
    """The options of a method: a range of numbers, or words to choose from."""
    method = find(name)
    hints = get_type_hints(method, include_extras=True)
    return {one.name: kind_of(hints[one.name]) for one in fields(method)}


def kind_of(hint: Any) -> Range | tuple[str, ...]:
    """The values that a field of this type may have."""
    if get_origin(hint) is Annotated:
        return next(extra for extra in get_args(hint) if isinstance(extra, Range))
    return get_args(hint)


@cache
def from_elsewhere() -> dict[str, EntryPoint]:
    """The methods of other packages, by name; looked up once, which takes milliseconds."""
    return {point.name: point for point in entry_points(group=GROUP)}
