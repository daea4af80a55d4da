"""The candidates of a search: ways to spend a budget of visual tokens, and the budgets."""

from __future__ import annotations

from dataclasses import dataclass

from sts_cli.profile import Cut, Profile

AVERAGES = (0.5, 0.33, 0.22, 0.15, 0.11, 0.075, 0.055, 0.04)  # shares of the visual tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """A way to spend a budget: a cut before the layers, and perhaps a second one between them."""

    name: str
    depth: float = 0.0  # of the second cut; 0: there is none
    below: float = 1.0  # tokens below the second cut, in averages
    rows: str = "all"  # of the question, whose attention counts
    method: str = "repulsion"  # of the first cut

    def profile(self, average: float) -> Profile:
        """The profile of this shape whose layers see `average` of the visual tokens."""
        name = f"{self.name} {100 * average:.2g}%"
        keep = min(1.0, round(self.below * average, 4))
        first = Cut(self.method, keep)
        if not self.depth:
            cuts: tuple[Cut, ...] = (first,)
        else:
            above = (average - self.depth * keep) / (1 - self.depth)
            options = {} if self.rows == "all" else {"rows": self.rows}
            second = Cut("relevance", round(above, 4), self.depth, options)
            cuts = (first, second)
        return Profile(name, cuts=cuts, attention="proportional")


SHAPES = (
    Shape("structure"),
    Shape("softer", 0.5, 1.1),  # as the shipped profiles
    Shape("harder", 0.5, 1.5),
    Shape("early", 0.25, 1.9, "last"),
    Shape("divprune", method="divprune"),
    Shape("pivoted-qr", method="star_pro"),
)
