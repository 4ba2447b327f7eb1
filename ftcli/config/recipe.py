"""A paper as a file: the job, what it is compared with, the claims, and the figures they may name.

A recipe is a job with the further keys of `Recipe` at its top. They are no part of the
configuration of a run: what a claim says does not change what is computed.

A claim's `measure` names a figure of result.json, a figure of a plan, or a measurement: a function
marked by `ftcli.reproduce.measures.measure`, in a module beside that mark or in a paper's `measures.py`.
Their names are read from source; nothing is imported or measured.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from itertools import count, islice, product
from pathlib import Path
from typing import Literal

from ftcli.config.overrides import join_overrides
from ftcli.config.paths import RECIPE_FILE, find_nearest, get_job_name

#: Figures of result.json -> whether they are counted rather than sampled.
FIGURES = {
    "bits_per_parameter": True, "trainable_parameters": True, "total_parameters": True,
    "adapter_bytes": True, "optimizer_state_bytes": True, "optimizer_state_elements": True,
    "active_parameters": True, "forward_passes": True, "step": True, "tokens": False, "supervised_tokens": False,
    "seconds": False, "tok_s": False, "peak_memory_gb": False,
}  # fmt: skip
#: Scores at the end of training, before its first step, and the first minus the second.
SCORES = ("eval.", "before.eval.", "change.eval.")
PLAN_PREFIX = "plan."
#: Figures of a plan, under `plan.<name>`.
PLAN_FIGURES = (
    "parameters", "trainable_parameters", "quantised_parameters", "bits_per_parameter",
    "quantised_gb", "weights_gb", "memory_gb", "least_memory_gb",
)  # fmt: skip
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measure:
    """A measurement: its module, and whether its value is independent of seeds and rounding."""

    module: str
    exact: bool


@cache
def list_measures() -> dict[str, Measure]:
    """Return all measurements by name."""
    files = [*(_PACKAGE / "reproduce" / "measures").glob("[!_]*.py")]
    files += (_PACKAGE / "papers").glob("*/measures.py")
    return {name: measure for file in sorted(files) for name, measure in _read_measures(file)}


def _read_measures(file: Path) -> list[tuple[str, Measure]]:
    module = ".".join(["ftcli", *file.relative_to(_PACKAGE).with_suffix("").parts])
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    marks = [(node.name, ast.unparse(mark)) for node in functions for mark in node.decorator_list]
    return [
        (name, Measure(module, "exact=True" in mark))
        for name, mark in marks
        if mark.partition("(")[0] == "measure"
    ]


def describe_unknown_measure(name: str) -> str | None:
    """Return the problem of a name that is neither a figure nor a measurement; None for a known name."""
    known = [*FIGURES, *list_measures(), *(PLAN_PREFIX + figure for figure in PLAN_FIGURES)]
    if name in known or name.startswith(SCORES):
        return None
    near = find_nearest(name, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{name} is neither a figure nor a measure.{hint}"


def is_exact_measure(name: str) -> bool:
    """Whether a figure does not depend on chance, so that it needs no interval."""
    if name in list_measures():
        return list_measures()[name].exact
    return name.startswith(PLAN_PREFIX) or FIGURES.get(name, False)


SMALL = "small"  # scale of the job itself, without overrides
REAL = "real"  # scale of a pretrained model that trains here; other scales are planned
EXACT, STATISTICAL, TRIVIAL = "exact", "statistical", "trivial"
KINDS = (EXACT, STATISTICAL, TRIVIAL)
MIN_SEEDS = 3  # least number of seeds for a figure that is not exact
MAX_CENTRAL = 3  # most statements that may be central
#: Relations of a claim that compare a figure with a number.
RELATIONS = ("at_least", "at_most", "equals", "within", "less_than", "greater_than")


@dataclass(frozen=True)
class Paper:
    """The paper whose statements are judged."""

    title: str  # as printed
    arxiv: str  # identifier such as "2305.14314"; quoted, or YAML reads a number
    year: int  # of the first version
    card: int | None = None  # number of its summary in our notes
    __pydantic_config__ = {"extra": "forbid"}


@dataclass(frozen=True)
class Claim:
    """A statement that figures can support or contradict.

    What is judged is the figure itself or, with `of`, its paired difference (or ratio) to a baseline.
    """

    say: str  # the statement, in words
    measure: str  # a figure of result.json (eval.loss), before.*, plan.*, or a named measure
    # exact: an identity or a count; statistical: depends on chance; trivial: could hardly be otherwise
    kind: Literal["exact", "statistical", "trivial"]
    central: bool = False  # one of the one to three central statements of the paper, at any scale
    variant: str | None = None  # variant whose figure is judged: a baseline; null: the job itself
    of: str | None = None  # baseline that it is compared with, seed by seed
    compare: Literal["difference", "ratio"] = "difference"  # how it is compared with `of`
    at_least: float | None = None  # the figure is this or more
    at_most: float | None = None  # the figure is this or less
    equals: float | None = None  # the figure is this, give or take `tolerance`
    within: float | None = None  # the difference to `of` (ratio minus 1) is at most this in size
    less_than: float | None = None  # the figure lies below this
    greater_than: float | None = None  # the figure lies above this
    ranks: list[str] | None = None  # variants in the order of their figure, the lowest first
    tolerance: float | None = None  # allowed deviation from `equals`
    scale: str = SMALL  # where it is judged: small, or a name under `scales`
    given: list[str] = field(default_factory=list)  # further overrides, for plan.* figures
    paper: float | str | None = None  # the paper's own figure
    verified: bool = False  # whether that figure was read in the paper itself
    needs: str | None = None  # what judging it would need beyond this scale; it is then not judged
    note: str | None = None  # what was tried, why it differs
    __pydantic_config__ = {"extra": "forbid"}

    @property
    def relation(self) -> tuple[str, float]:
        """Name and number of the relation; ("ranks", 0) for an order of variants."""
        for name in RELATIONS:
            value = getattr(self, name)
            if value is not None:
                return name, float(value)
        return "ranks", 0.0

    @property
    def figure(self) -> str:
        """Scale, measure, variants and comparison in one line."""
        parts = [self.scale, self.measure, f"of {self.variant}" if self.variant else ""]
        parts += [f"{self.compare} to {self.of}" if self.of else ""]
        parts += [" < ".join(self.ranks) if self.ranks else "", *self.given]
        return " | ".join(part for part in parts if part)

    @property
    def identity(self) -> str:
        """Figure and relation in one line; a claim's words, notes and kind are not part of it."""
        name, value = self.relation
        if name == "ranks":
            return self.figure
        tolerance = f" +- {self.tolerance:g}" if self.tolerance else ""
        return f"{self.figure} | {name} {value:.12g}{tolerance}"

    @property
    def statement(self) -> str:
        """Identity without the scale: the same for claims that state one thing at several scales."""
        return self.identity.partition(" | ")[2]


@dataclass(frozen=True)
class Tune:
    """A search of settings with the same number of trials for every variant.

    Each variant is trained once for every combination of the values of `grid` (of `own`, where its
    useful values lie elsewhere; there must be as many), with the seed `seed`. The combination with the
    best `by` is what its judged runs take. A search that has `scales` alone is none at the small scale.
    """

    grid: dict[str, list[float | int | str]] = field(
        default_factory=dict
    )  # key -> values, for every variant
    changes: list[str] = field(
        default_factory=list
    )  # overrides of a trial: it is scored on other rows than those that judge
    own: dict[str, dict[str, list[float | int | str]]] = field(
        default_factory=dict
    )  # variant -> its own keys and values, as many combinations as in `grid`
    fixed: dict[str, str] = field(default_factory=dict)  # variant that is not searched -> why
    by: str = "eval.loss"  # score that decides between trials
    highest: bool = False  # whether a higher score is better
    seed: int = 100  # seed of the trials; none of `seeds`
    scales: dict[str, Tune] = field(default_factory=dict)  # scale -> its own search
    __pydantic_config__ = {"extra": "forbid"}

    def list_points(self, variant: str) -> list[list[str]]:
        """Return the overrides of every trial of a variant; empty where it is not searched."""
        if variant in self.fixed:
            return []
        grid = self.own.get(variant, self.grid)
        return [
            [f"{key}={value}" for key, value in zip(grid, values, strict=True)]
            for values in product(*grid.values())
        ]


@dataclass(frozen=True)
class Recipe:
    """The keys of a recipe beside its job."""

    paper: Paper  # the paper whose statements are judged
    claims: list[Claim]  # the statements
    baselines: dict[str, list[str]] = field(default_factory=dict)  # name -> overrides of the job
    scales: dict[str, list[str]] = field(default_factory=dict)  # name -> overrides of the job
    scaled_variants: dict[str, dict[str, list[str]]] = field(
        default_factory=dict
    )  # scale -> variant -> further overrides, as of a size that is equal on that model
    variant: str | None = None  # name of the job itself among the variants; null: the file's name
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # seeds of the first look
    tune: Tune | None = None  # the search of settings
    path: Path = Path()  # the file; not a key

    @property
    def name(self) -> str:
        """Name of the recipe: `qlora`."""
        return get_job_name(self.path)

    def get_path(self, file: str) -> Path:
        """Return the path of a recipe's file: `verdicts.json` in a paper's folder, else `NAME.verdicts.json`."""
        return self.path.with_name(file if self.path.name == RECIPE_FILE else f"{self.name}.{file}")

    @property
    def own(self) -> str:
        """Name of the job itself among the variants."""
        return self.variant or self.name

    def overrides(self, variant: str, scale: str = SMALL) -> list[str]:
        """Return the overrides of a variant (the job itself, or a baseline) at a scale."""
        own = [] if variant == self.own else self.baselines[variant]
        at_scale = self.scaled_variants.get(scale, {}).get(variant, [])
        return join_overrides(self.scales.get(scale, []), own, at_scale)

    def variants(self) -> list[str]:
        """Return the names of the variants: the job itself, then its baselines."""
        return [self.own, *self.baselines]

    def list_searched(self, scale: str = SMALL) -> list[str]:
        """Return the variants that a search covers: all at the small scale, else those that claims compare."""
        if scale == SMALL:
            return self.variants()
        claims = [c for c in self.claims if c.scale == scale and not c.needs]
        named = {v for claim in claims for v in self.list_claim_variants(claim)}
        return [v for v in self.variants() if v in named]

    def get_tune(self, scale: str = SMALL) -> Tune | None:
        """Return the search of settings at a scale; None where there is none."""
        if self.tune is None or scale != SMALL:
            return self.tune.scales.get(scale) if self.tune else None
        return self.tune if self.tune.grid or not self.tune.scales else None

    def trains_at(self, scale: str) -> bool:
        """Whether runs at a scale are trained without being asked for: not those of the paper's own models."""
        return scale in (SMALL, REAL)

    def list_claim_variants(self, claim: Claim) -> list[str]:
        """Return the variants whose runs a claim needs."""
        if claim.ranks:
            return list(claim.ranks)
        return [claim.variant or self.own, *([claim.of] if claim.of else [])]

    def list_seeds(self, look: int, scale: str = SMALL) -> list[int]:
        """Return the seeds up to a look: those of the first, and as many new ones for each further look.

        Runs of a real model are long: the first look there takes the first three.
        """
        first = self.seeds if scale == SMALL else self.seeds[:MIN_SEEDS]
        searches = [self.tune, *self.tune.scales.values()] if self.tune else []
        kept = {*self.seeds, *(tune.seed for tune in searches)}
        further = (seed for seed in count(max(first) + 1) if seed not in kept)
        return [*first, *islice(further, len(first) * (look - 1))]

    def compares_variants(self, scale: str = SMALL) -> bool:
        """Whether a statistical claim that compares variants is judged at a scale."""
        return any(
            c.kind == STATISTICAL and (c.of or c.ranks) and c.scale == scale and not c.needs
            for c in self.claims
        )
