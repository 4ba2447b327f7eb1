"""Reproduce a paper: train its runs, measure its figures, judge its claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftcli.config.overrides import join_overrides
from ftcli.config.recipe import PLAN_PREFIX, SMALL, Claim, Recipe, is_exact_measure, list_measures
from ftcli.core.errors import FAILED, OK, UserError
from ftcli.core.logs import silence_logger
from ftcli.reproduce import measure, origin, tuning, verdicts
from ftcli.reproduce.experiment import Experiment, Progress
from ftcli.reproduce.judge import FAILS, NOT_HERE, Judge, Verdict

if TYPE_CHECKING:
    from ftcli.planning.findings import Finding

HERE = ("memory", "disk")  # findings about this machine, which need not be the one that trains
GPU_GB = 80.0  # size of the planned GPU; the figures do not depend on it


@dataclass
class Reproduction:
    """The claims of a recipe at one scale, with runs and verdicts.

    Args:
        only: number (from 1) of a claim, or part of its words; None judges all claims.
        subset: the claims to judge, where they are chosen by the caller.
        look: number of this look at the figures; each look adds as many seeds as the first had.
        seeds: number of seeds to use instead of the recipe's, for a trial run without decisions.
        overrides: overrides of the command line, for every run.
        train: whether to train at a scale that is only planned otherwise.
    """

    recipe: Recipe
    scale: str = SMALL
    only: str | None = None
    subset: Sequence[Claim] | None = None
    look: int = 1
    seeds: int | None = None
    overrides: Sequence[str] = ()
    train: bool = False
    verdicts: list[Verdict] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = [SMALL, *self.recipe.scales]
        if self.scale not in known:
            raise UserError(
                f"{self.recipe.name} has no scale {self.scale}.",
                where="--scale",
                fix=f"one of {', '.join(known)}",
            )

    @cached_property
    def tuned(self) -> dict[str, list[str]]:
        """Variant -> overrides that the search chose; empty where the recipe has no search.

        Raises:
            UserError: the search is missing or belongs to another version of the recipe.
        """
        return tuning.require_choices(self.recipe, self.scale)

    @cached_property
    def claims(self) -> list[Claim]:
        """The claims to judge.

        Raises:
            UserError: `only` matches no claim.
        """
        if self.subset is not None:
            return list(self.subset)
        claims = [claim for claim in self.recipe.claims if claim.scale == self.scale]
        chosen = [c for c in claims if self.only is None or self._matches(c, self.only)]
        if not chosen:
            known = [f"{self.number(c)} {c.say}" for c in claims]
            raise UserError(
                f"no claim at the {self.scale} scale is called {self.only}."
                if self.only
                else f"{self.recipe.name} claims nothing at the {self.scale} scale.",
                where="--only" if self.only else "--scale",
                fix="one of: " + "; ".join(known) if known else None,
            )
        return chosen

    def _matches(self, claim: Claim, word: str) -> bool:
        if word.isdigit():
            return int(word) == self.number(claim)
        return word.lower() in claim.say.lower()

    def number(self, claim: Claim) -> int:
        """Return the position of a claim in the recipe, from 1."""
        return 1 + next(i for i, other in enumerate(self.recipe.claims) if other is claim)

    @cached_property
    def experiment(self) -> Experiment | None:
        """The runs that the claims need; None where they need none or training was not requested."""
        if not (self.train or self.recipe.trains_at(self.scale)):
            return None
        needing = [c for c in self.claims if self._needs_runs(c)]
        if not needing:
            return None
        variants = [v for claim in needing for v in self.recipe.list_claim_variants(claim)]
        if self.only is None and self.subset is None and self.scale == SMALL:
            variants = [*self.recipe.variants(), *variants]
        changes = {v: self._changes(v) for v in dict.fromkeys(variants)}
        every = all(is_exact_measure(claim.measure) for claim in needing)
        seeds = self.recipe.list_seeds(self.look, self.scale)[: 1 if every else self.seeds]
        return Experiment(self.recipe, changes, seeds, self.overrides)

    def _changes(self, variant: str) -> list[str]:
        return join_overrides(
            self.recipe.overrides(variant, self.scale), self.tuned.get(variant, [])
        )

    @staticmethod
    def _needs_runs(claim: Claim) -> bool:
        return not (claim.needs or claim.measure.startswith(PLAN_PREFIX))

    def run(self, report: Callable[[Progress], None]) -> None:
        """Train the missing runs, then judge the claims.

        Raises:
            UserError: a run failed, or the job is not valid.
        """
        if self.experiment:
            self.experiment.run(report)
        self.verdicts = [self._judge_claim(claim) for claim in self.claims]

    def _judge_claim(self, claim: Claim) -> Verdict:
        if claim.needs:
            return Verdict(NOT_HERE, f"needs {claim.needs}")
        planned = claim.measure.startswith(PLAN_PREFIX)
        if not planned and self.experiment is None:
            return Verdict(NOT_HERE, f"needs training at the {self.scale} scale: --run")
        take = self._plan_variant if planned else self._measure_variant
        try:
            values = {
                v: take(claim, v) for v in dict.fromkeys(self.recipe.list_claim_variants(claim))
            }
        except measure.MetricUnavailable as absent:
            return Verdict(NOT_HERE, str(absent))
        except UserError as error:
            if not planned:
                raise
            return Verdict(NOT_HERE, f"cannot be planned: {error.what}")
        judge = Judge(
            claim,
            is_exact_measure(claim.measure),
            len(self.recipe.list_seeds(1, self.scale)),
            self.count_look(claim),
        )
        return judge.verdict(values)

    def seeds_of(self, claim: Claim) -> list[int]:
        """Return the seeds that a claim is judged by; empty where it needs no runs."""
        if self.experiment is None or not self._needs_runs(claim):
            return []
        return self.experiment.seeds[: 1 if self._is_of_one_run(claim) else None]

    @staticmethod
    def _is_of_one_run(claim: Claim) -> bool:
        """Whether the figure is a measurement that is the same for every seed."""
        return claim.measure in list_measures() and is_exact_measure(claim.measure)

    def count_look(self, claim: Claim) -> int:
        """Return the number of this look at the claim's figure, counting the stored looks."""
        settings = origin.settings(self.recipe, claim, self.tuned)
        kept = verdicts.load_verdicts(self.recipe)
        return verdicts.count_look(claim, self.seeds_of(claim), settings, kept)

    def origin(self, claim: Claim) -> origin.Origin:
        """Return the origin of the verdict on a claim."""
        if self.experiment is not None and self._needs_runs(claim):
            needed = [
                t
                for v in self.recipe.list_claim_variants(claim)
                for t in self.experiment.trials_of(v)
            ]
            return origin.find_origin(
                self.recipe, claim, [s for t in needed for s in t.sources], self.tuned
            )
        planned = claim.measure.startswith(PLAN_PREFIX) and not claim.needs
        jobs = (
            [self._compose_variant(claim, v) for v in self.recipe.list_claim_variants(claim)]
            if planned
            else []
        )
        return origin.find_origin(self.recipe, claim, jobs, self.tuned)

    def _compose_variant(self, claim: Claim, variant: str) -> Any:
        from ftcli.config import compose

        with silence_logger("config"):
            return compose(self.recipe.path, self._plan_overrides(claim, variant))

    def _plan_overrides(self, claim: Claim, variant: str) -> list[str]:
        """Return the overrides of the plan of a variant."""
        return join_overrides(self._changes(variant), claim.given, self.overrides)

    def _measure_variant(self, claim: Claim, variant: str) -> list[float]:
        assert self.experiment is not None
        runs = list(self.experiment.trials_of(variant))
        if self._is_of_one_run(claim):
            runs = runs[:1]
        return [measure.read_metric(claim.measure, run.path) for run in runs]

    def _plan_variant(self, claim: Claim, variant: str) -> list[float]:
        from ftcli.reproduce.plan_figures import FIGURES

        plan = self._build_plan(tuple(self._plan_overrides(claim, variant)))
        return [float(FIGURES[claim.measure.removeprefix(PLAN_PREFIX)](plan))]

    def _build_plan(self, overrides: tuple[str, ...]) -> Any:
        """Return the plan of the recipe with overrides; it is cached."""
        from ftcli.planning.plan import make_plan

        plans: dict[tuple[str, ...], Any] = self.__dict__.setdefault("_made", {})
        if overrides not in plans:
            with silence_logger("config"):
                plans[overrides] = make_plan(str(self.recipe.path), overrides, GPU_GB)
        return plans[overrides]

    @property
    def status(self) -> int:
        """Exit status: 1 where a claim fails; an undecided claim is no failure."""
        return FAILED if any(v.verdict == FAILS for v in self.verdicts) else OK

    def findings(self) -> Iterator[Finding]:
        """Yield the findings of `ftcli check` on the recipe, at a scale other than the small one.

        Findings about this machine (memory, disk) are yielded and raise no error.

        Raises:
            UserError: training would not start on any machine.
        """
        if self.scale == SMALL:
            return
        from ftcli.planning.check import prepare_check

        overrides = join_overrides(
            self.recipe.overrides(self.recipe.own, self.scale), self.overrides
        )
        for finding in prepare_check(str(self.recipe.path), overrides).findings():
            yield finding
            if finding.status == "fail" and finding.name not in HERE:
                raise UserError(finding.text, fix=finding.fix)
