"""A paper as a file: the job, what it is compared with, and the statements to be judged.

A recipe is a job with the further keys of `Recipe` at its top. They are no part of the
configuration of a run: what a claim says does not change what is computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count, islice, product
from pathlib import Path
from typing import Literal

from ftcli.config.paths import RECIPE, job_name

SMALL = "small"  # the scale of the job as it stands in the file
EXACT, STATISTICAL, TRIVIAL = "exact", "statistical", "trivial"
KINDS = (EXACT, STATISTICAL, TRIVIAL)
LEAST_SEEDS = 3  # of a figure that chance moves
MOST_CENTRAL = 3  # claims that a paper stands on
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
    # exact: an identity or a count; statistical: chance moves it; trivial: it could hardly be otherwise
    kind: Literal["exact", "statistical", "trivial"]
    central: bool = False  # one of the one to three statements that the paper stands on
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

    @property
    def figure(self) -> str:
        """What is looked at: measure, variants, comparison and scale, in one line."""
        parts = [self.scale, self.measure, f"of {self.variant}" if self.variant else ""]
        parts += [f"{self.compare} to {self.of}" if self.of else ""]
        parts += [" < ".join(self.ranks) if self.ranks else "", *self.given]
        return " | ".join(part for part in parts if part)

    @property
    def identity(self) -> str:
        """The figure and the relation that it must satisfy. Words, notes and kind are no part of it."""
        name, value = self.relation
        if name == "ranks":
            return self.figure
        tolerance = f" +- {self.tolerance:g}" if self.tolerance else ""
        return f"{self.figure} | {name} {value:.12g}{tolerance}"


@dataclass(frozen=True)
class Tune:
    """A search of settings that is the same for every variant.

    Each variant is trained once for every combination of the values of `grid` (of `own`, where its
    useful values lie elsewhere; there must be as many), with the seed `seed`. The combination with the
    best `by` is what its judged runs take.
    """

    grid: dict[str, list[float | int | str]]  # key -> values, for every variant
    changes: list[str]  # overrides of a trial: the rows that choose must not be those that judge
    own: dict[str, dict[str, list[float | int | str]]] = field(
        default_factory=dict
    )  # variant -> its own keys and values, as many combinations as in `grid`
    fixed: dict[str, str] = field(default_factory=dict)  # variant that is not searched -> why
    by: str = "eval.loss"  # the score of a trial that decides
    highest: bool = False  # whether more of it is better
    seed: int = 100  # of the trials; not one of those that judge
    __pydantic_config__ = {"extra": "forbid"}

    def points(self, variant: str) -> list[list[str]]:
        """The overrides of every trial of a variant; none where it is not searched."""
        if variant in self.fixed:
            return []
        grid = self.own.get(variant, self.grid)
        return [
            [f"{key}={value}" for key, value in zip(grid, values, strict=True)]
            for values in product(*grid.values())
        ]


@dataclass(frozen=True)
class Recipe:
    """What stands at the top of a recipe beside the job."""

    paper: Paper  # where the statements come from
    claims: list[Claim]  # the statements
    baselines: dict[str, list[str]] = field(default_factory=dict)  # name -> overrides of the job
    scales: dict[str, list[str]] = field(default_factory=dict)  # name -> overrides of the job
    variant: str | None = None  # what the job itself is called beside them; null: the file's name
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # of the first look
    tune: Tune | None = None  # the search of settings
    path: Path = Path()  # the file; not a key

    @property
    def name(self) -> str:
        """`qlora`."""
        return job_name(self.path)

    def beside(self, file: str) -> Path:
        """A file kept for the recipe: `verdicts.json` in a paper's folder, else `NAME.verdicts.json`."""
        return self.path.with_name(file if self.path.name == RECIPE else f"{self.name}.{file}")

    @property
    def own(self) -> str:
        """The job itself among the variants."""
        return self.variant or self.name

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

    def seeds_of(self, look: int) -> list[int]:
        """Those of the first look, and as many new ones for each further look."""
        kept = {*self.seeds, self.tune.seed if self.tune else -1}
        further = (seed for seed in count(max(self.seeds) + 1) if seed not in kept)
        return [*self.seeds, *islice(further, len(self.seeds) * (look - 1))]

    def is_compared(self) -> bool:
        """Whether a claim on quality is judged here: one that chance moves, between variants."""
        return any(
            c.kind == STATISTICAL and (c.of or c.ranks) and c.scale == SMALL and not c.needs
            for c in self.claims
        )


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
