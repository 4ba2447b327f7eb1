"""A paper as a file: the job, what it is compared with, and the statements to be judged.

A recipe is a job with the further keys of `Recipe` at its top. They are no part of the
configuration of a run: what a claim says does not change what is computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SMALL = "small"  # the scale of the job as it stands in the file
#: Relations of a claim that compare a figure with a number.
RELATIONS = ("at_least", "at_most", "equals", "within", "less_than", "greater_than")


@dataclass(frozen=True)
class Paper:
    """Where the statements come from."""

    title: str  # as printed
    arxiv: str  # identifier such as "2305.14314"; quoted, or YAML reads a number
    year: int  # of the first version
    card: int | None = None  # number of its summary in our notes
    __pydantic_config__ = {"extra": "forbid"}


@dataclass(frozen=True)
class Claim:
    """One statement that figures can support or contradict.

    Judged is the figure itself or, with `of`, its paired difference (or ratio) to a baseline.
    """

    say: str  # the statement, in words
    measure: str  # a figure of result.json (eval.loss), before.*, plan.*, or a named measure
    variant: str | None = None  # whose figure: a baseline; null: the job itself
    of: str | None = None  # the baseline it is compared with, seed by seed
    compare: Literal["difference", "ratio"] = "difference"  # how it is compared with `of`
    at_least: float | None = None  # the figure is this or more
    at_most: float | None = None  # the figure is this or less
    equals: float | None = None  # the figure is this, give or take `tolerance`
    within: float | None = None  # of `of`: the difference (ratio minus 1) is no larger than this
    less_than: float | None = None  # the figure lies below this
    greater_than: float | None = None  # the figure lies above this
    ranks: list[str] | None = None  # variants in the order of their figure, the lowest first
    tolerance: float | None = None  # of `equals`
    seeds: int = 3  # runs it takes at least; exact figures need one
    scale: str = SMALL  # where it is judged: small, or a name under `scales`
    given: list[str] = field(default_factory=list)  # further overrides, for plan.* figures
    paper: float | str | None = None  # the paper's own figure
    verified: bool = False  # whether that figure was read in the paper itself
    needs: str | None = None  # what judging it takes beyond this scale; it is not judged then
    note: str | None = None  # what was tried, why it differs
    __pydantic_config__ = {"extra": "forbid"}

    @property
    def relation(self) -> tuple[str, float]:
        """Name and number of its relation; ("ranks", 0) for an order of variants."""
        for name in RELATIONS:
            value = getattr(self, name)
            if value is not None:
                return name, float(value)
        return "ranks", 0.0


@dataclass(frozen=True)
class Recipe:
    """What stands at the top of a recipe beside the job."""

    paper: Paper  # where the statements come from
    claims: list[Claim]  # the statements
    baselines: dict[str, list[str]] = field(default_factory=dict)  # name -> overrides of the job
    scales: dict[str, list[str]] = field(default_factory=dict)  # name -> overrides of the job
    variant: str | None = None  # what the job itself is called beside them; null: the file's name
    path: Path = Path()  # the file; not a key

    @property
    def name(self) -> str:
        """`qlora`."""
        return self.path.stem

    @property
    def own(self) -> str:
        """The job itself among the variants."""
        return self.variant or self.name

    @property
    def family(self) -> str:
        """The folder it stands in."""
        return self.path.resolve().parent.name

    def overrides(self, variant: str, scale: str = SMALL) -> list[str]:
        """What a variant (the job itself, or a baseline) changes of the job at a scale."""
        own = [] if variant == self.own else self.baselines[variant]
        return joined(self.scales.get(scale, []), own)

    def variants(self) -> list[str]:
        """The recipe itself, then its baselines."""
        return [self.own, *self.baselines]

    def variants_of(self, claim: Claim) -> list[str]:
        """Whose runs a claim needs."""
        if claim.ranks:
            return list(claim.ranks)
        return [claim.variant or self.own, *([claim.of] if claim.of else [])]


def joined(*parts: Iterable[str]) -> list[str]:
    """Overrides one after the other; a later option of a group replaces its earlier keys.

    `method=full` behind `method.r=64` leaves no `r`, as in the job itself.
    """
    found: list[str] = []
    for override in (one for part in parts for one in part):
        group, given, _ = override.partition("=")
        if given and "." not in group:
            found = [one for one in found if not one.startswith((f"{group}.", f"{group}="))]
        found.append(override)
    return found
