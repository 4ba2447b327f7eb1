"""A paper judged: its runs are made or found, its figures taken, its claims decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftcli.errors import FAILED, OK, UserError
from ftcli.notes import silenced
from ftcli.reproduce import measure
from ftcli.reproduce.experiment import Experiment, Progress
from ftcli.reproduce.judge import FAILS, NOT_HERE, Verdict, judge
from ftcli.reproduce.recipe import SMALL, Claim, Recipe, joined

if TYPE_CHECKING:
    from ftcli.planning.findings import Finding

HERE = ("memory", "disk")  # checks of this machine, which need not be the one that will train
GPU_GB = 80.0  # papers tell what a GPU holds; the figures do not depend on its size


@dataclass
class Reproduction:
    """Claims of a recipe at one scale, with what they were judged by.

    Args:
        only: number (from 1) or part of the words of the claims to judge; None judges all.
        seeds: how many; None takes what the claims ask for.
        overrides: of the command line, for every run.
        train: whether runs may be made at a scale other than the small one.
    """

    recipe: Recipe
    scale: str = SMALL
    only: str | None = None
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
    def claims(self) -> list[Claim]:
        """The claims to judge.

        Raises:
            UserError: `only` fits none.
        """
        here = [claim for claim in self.recipe.claims if claim.scale == self.scale]
        found = [c for c in here if self.only is None or self._is_meant(c, self.only)]
        if not found:
            said = [f"{self.number(c)} {c.say}" for c in here]
            raise UserError(
                f"no claim at the {self.scale} scale is called {self.only}."
                if self.only
                else f"{self.recipe.name} claims nothing at the {self.scale} scale.",
                where="--only" if self.only else "--scale",
                fix="one of: " + "; ".join(said) if said else None,
            )
        return found

    def _is_meant(self, claim: Claim, word: str) -> bool:
        if word.isdigit():
            return int(word) == self.number(claim)
        return word.lower() in claim.say.lower()

    def number(self, claim: Claim) -> int:
        """Its place in the recipe, from 1."""
        return 1 + next(i for i, other in enumerate(self.recipe.claims) if other is claim)

    @cached_property
    def experiment(self) -> Experiment | None:
        """The runs that the claims need; None where they need none, or none may be made."""
        if self.scale != SMALL and not self.train:
            return None
        needing = [c for c in self.claims if self._needs_runs(c)]
        if not needing:
            return None
        variants = [v for claim in needing for v in self.recipe.variants_of(claim)]
        if self.only is None:
            variants = [*self.recipe.variants(), *variants]
        seeds = self.seeds or max(
            1 if measure.is_exact(claim.measure) else claim.seeds for claim in needing
        )
        return Experiment(self.recipe, variants, seeds, self.scale, self.overrides)

    @staticmethod
    def _needs_runs(claim: Claim) -> bool:
        return not (claim.needs or claim.measure.startswith(measure.PLAN))

    def run(self, say: Callable[[Progress], None]) -> None:
        """Make the runs that are missing, then judge.

        Raises:
            UserError: a run failed, or the job is not sound.
        """
        if self.experiment:
            self.experiment.run(say)
        self.verdicts = [self._judged(claim) for claim in self.claims]

    def _judged(self, claim: Claim) -> Verdict:
        if claim.needs:
            return Verdict(NOT_HERE, f"needs {claim.needs}")
        planned = claim.measure.startswith(measure.PLAN)
        if not planned and self.experiment is None:
            return Verdict(NOT_HERE, f"needs training at the {self.scale} scale: --run")
        take = self._planned if planned else self._measured
        try:
            values = {v: take(claim, v) for v in dict.fromkeys(self.recipe.variants_of(claim))}
        except measure.Absent as absent:
            return Verdict(NOT_HERE, str(absent))
        except UserError as error:
            if not planned:
                raise
            return Verdict(NOT_HERE, f"cannot be planned: {error.what}")
        return judge(claim, values, measure.is_exact(claim.measure))

    def _measured(self, claim: Claim, variant: str) -> list[float]:
        assert self.experiment is not None
        runs = list(self.experiment.of(variant))
        if claim.measure in measure.named() and measure.is_exact(claim.measure):
            runs = runs[:1]  # no seed moves it
        return [measure.value(claim.measure, one.path) for one in runs]

    def _planned(self, claim: Claim, variant: str) -> list[float]:
        from ftcli.reproduce.planned import FIGURES

        own = self.recipe.overrides(variant, self.scale)
        given = joined(own, claim.given, self.overrides)
        plan = self._plans(tuple(given))
        return [float(FIGURES[claim.measure.removeprefix(measure.PLAN)](plan))]

    def _plans(self, overrides: tuple[str, ...]) -> Any:
        """The plan of the recipe with overrides, made once."""
        from ftcli.planning.plan import make

        made: dict[tuple[str, ...], Any] = self.__dict__.setdefault("_made", {})
        if overrides not in made:
            with silenced("config"):
                made[overrides] = make(str(self.recipe.path), overrides, GPU_GB)
        return made[overrides]

    @property
    def status(self) -> int:
        """Exit status: 1 where a claim fails; what is undecided is no failure."""
        return FAILED if any(v.verdict == FAILS for v in self.verdicts) else OK

    def findings(self) -> Iterator[Finding]:
        """At another scale than the small one: what `ftcli check` says of the recipe there.

        What this machine lacks (memory, disk) is said, not held against the recipe.

        Raises:
            UserError: training would not start anywhere.
        """
        if self.scale == SMALL:
            return
        from ftcli.planning.check import check

        own = joined(self.recipe.overrides(self.recipe.own, self.scale), self.overrides)
        for finding in check(str(self.recipe.path), own).findings():
            yield finding
            if finding.status == "fail" and finding.name not in HERE:
                raise UserError(finding.text, fix=finding.fix)
