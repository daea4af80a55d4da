"""Pruning methods: one file each, found by its name. No torch: profiles are checked without it.

A method is a frozen dataclass in a file of its own: `random.py` holds `Random`. Its fields are the
options that a profile may set, each with a default: a number with a `Range`, a `Literal` of words,
or the name of a `File`. The first line of its docstring says which tokens it keeps, `source` where
it comes from. `needs` names its inputs besides the tokens. `cut` chooses the tokens. Another
package adds a method with an entry point of the group "sts.pruning": the entry point has the
method's name and points to the dataclass.

The engine does what all methods share: it never prunes text, keeps budgets exact, gives each image
of a question its part, and counts how many tokens each kept token stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
Need = Literal[
    "attention",
    "encoder",
    "guide",
    "heads",
    "patches",
    "products",
    "question",
    "seed",
    "shallow",
]
NEEDS: tuple[Need, ...] = get_args(Need)
OF_ENCODER: tuple[Need, ...] = ("encoder", "patches", "shallow")  # at hand before the first layer
WATCHED: tuple[Need, ...] = ("attention", "heads")  # in the layer before a cut
OF_QUESTION: tuple[Need, ...] = (
    *WATCHED,
    "guide",
    "products",
    "question",
)  # they differ by question
IN_WORDS: dict[Need, str] = {
    "attention": "attention of the question in the language model",
    "encoder": "attention in the vision encoder",
    "guide": "a smaller model as guide",
    "heads": "attention of the question in the language model, by head",
    "patches": "attention in the vision encoder",
    "products": "queries and keys of the language model",
    "question": "the question",
    "seed": "the image's checksum",
    "shallow": "attention early in the vision encoder",
}


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that an option accepts, from `low` to `high`, both included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class File:
    """The files that an option accepts, by the end of their names, or the `word` for one of ours.

    A profile gives them as seen from its own file.
    """

    ending: str
    word: str


Allowed = Range | tuple[str, ...] | File


@dataclass(frozen=True, slots=True)
class Candidates:
    """The N visual tokens that a method chooses from, in the order of the prompt.

    Before the first layer they belong to one image, at later layers to all images of a question.
    An input that the method does not name in `needs` is None.
    """

    features: Tensor  # [N, D]; the hidden states at this layer
    grid: Tensor  # [N, 2]; row and column in the image, each in 0..1
    image: Tensor  # [N]; the index of the token's image in its question
    size: Tensor  # [N]; the number of the image's tokens that each stands for
    attention: Tensor | None = None  # [N]; from the watched queries to each, mean over heads
    heads: Tensor | None = None  # [H, N]; the same by head
    question: Tensor | None = None  # [Q, D]; the tokens after the last image
    seed: int | None = None  # follows from the images' pixels; for methods that draw at random
    # [H, N]; query . key / sqrt(d) of the next layer without RoPE, from the watched tokens' mean
    products: Tensor | None = None
    # [N] each; what each token's patches got in the vision encoder, mean over heads
    encoder: Tensor | None = None  # from the class token, or, where there is none, from all patches
    patches: Tensor | None = None  # from all patches; this and `encoder`: in the last layer read
    shallow: Tensor | None = None  # as `encoder`, but after a quarter of the layers
    guide: Tensor | None = None  # [N]; importance to the answer of a smaller model


@dataclass(frozen=True, slots=True)
class Cutting:
    """A method's choice: the tokens that stay, and those that the others are merged into."""

    keep: Tensor  # [K]; sorted indices into the N candidates
    into: Tensor | None = None  # [N]; the kept index that each token is merged into; None: dropped
    weight: Tensor | None = None  # [N]; of each in the mean that it is merged into; None: its size


@dataclass(frozen=True, slots=True)
class Trail:
    """The tokens in the order in which a method chooses them, and what the first of them leave."""

    order: Tensor  # [M]; indices into the N candidates
    left: Tensor  # [M]; share of the image's energy that the first 1, 2, ... leave; never grows


class Method(Protocol):
    """A way to choose tokens. Pure: equal candidates give equal cuttings.

    A method that needs `attention`, `heads` or `products` may have an attribute or an option
    `rows`: "all" (words after the last image; the default), "last" (the last token) or "raters"
    (the words that are nearest to the image). A method that only fits some models has a method
    `unfit`: for a language model's config the reason, or None.
    """

    needs: tuple[Need, ...]
    source: str

    def cut(self, candidates: Candidates, count: int) -> Cutting:
        """Exactly `count` of the N candidates, 1 <= count < N."""
        ...


class Following(Method, Protocol):
    """A method that can follow the image: it knows what a choice leaves.

    It chooses one token after the other, so `cut` keeps the first tokens of `trail`, whatever its
    number, and merges none. Such a method may have the budget `profile.Energy`.
    """

    def trail(self, candidates: Candidates, most: int) -> Trail:
        """The first `most` of the N candidates, 1 <= most <= N."""
        ...


class Together(Method, Protocol):
    """A method that chooses for several images in one loop, which a GPU runs as fast as for one."""

    def cuts(self, candidates: Sequence[Candidates], count: int) -> list[Cutting]:
        """`count` of each image's candidates, as many in all of them; each as `cut` does."""
        ...


@cache
def names() -> tuple[str, ...]:
    """The names of all methods: those of sts, then those of other packages, each sorted.

    Cached, as `find` is: every cut of every batch needs it.
    """
    own = sorted(
        entry.name.removesuffix(".py")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".py") and not entry.name.startswith("_")
    )
    return *own, *sorted(name for name in third_party() if name not in own)


@cache
def find(name: str) -> type[Any]:
    """The dataclass of the method `name`. Raises ProfileError for an unknown or broken method."""
    known = names()
    if name not in known:
        raise ProfileError(
            f"No method '{name}'. Known: {', '.join(known)}.{did_you_mean(name, known)}"
        )
    entry_point = third_party().get(name)
    if (files(__name__) / f"{name}.py").is_file():
        if entry_point is not None:
            raise ProfileError(
                f"The method '{name}' of {entry_point.value} has the name of a method of sts. "
                "Uninstall that package, or rename its entry point."
            )
        module = import_module(f"{__name__}.{name}")
        own_method: type[Any] = getattr(module, name.title().replace("_", ""))
        return own_method
    assert entry_point is not None
    try:
        method: type[Any] = entry_point.load()
    except Exception as error:  # another package's import may raise anything
        raise ProfileError(
            f"The method '{name}' of {entry_point.value} cannot be imported: {error}."
        ) from error
    unknown = sorted(set(method.needs) - set(NEEDS))
    if unknown:
        raise ProfileError(
            f"The method '{name}' of {entry_point.value} needs {', '.join(unknown)}, which this "
            f"version of sts does not provide. It provides: {', '.join(NEEDS)}."
        )
    return method


def build(name: str, options: Mapping[str, float | str]) -> Method:
    """The method `name` with its options, which `options_of` has checked."""
    method: Method = find(name)(**options)
    return method


def follows(name: str) -> bool:
    """True if the method `name` can follow the image: it is a `Following`."""
    return hasattr(find(name), "trail")


def about(name: str) -> str:
    """One line that says which tokens a method keeps, for `sts profiles`."""
    return (find(name).__doc__ or "").strip().splitlines()[0].rstrip(".")


def source_of(name: str) -> str:
    """The paper that a method comes from, or the package."""
    point = third_party().get(name)
    given: str = getattr(find(name), "source", "")
    return given or (point.value if point else "")


def digests(name: str, options: Mapping[str, float | str]) -> Mapping[str, str]:
    """The digests of the files that a method reads, by option. Raises ProfileError."""
    method = build(name, options)
    found: Mapping[str, str] = method.digests() if hasattr(method, "digests") else {}
    return found


def options_of(name: str) -> dict[str, Allowed]:
    """The options of a method: a range of numbers, words to choose from, or a file."""
    method = find(name)
    hints = get_type_hints(method, include_extras=True)
    return {option.name: allowed_values(hints[option.name]) for option in fields(method)}


def allowed_values(hint: Any) -> Allowed:
    """The values that an option with this type hint accepts."""
    if get_origin(hint) is Annotated:
        return next(note for note in get_args(hint) if isinstance(note, Range | File))
    return get_args(hint)


@cache
def third_party() -> dict[str, EntryPoint]:
    """The methods of other packages, by name. Cached; the first call takes milliseconds."""
    return {point.name: point for point in entry_points(group=GROUP)}
