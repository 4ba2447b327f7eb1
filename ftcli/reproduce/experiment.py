"""The runs of a reproduction: recipe and baselines over seeds, each done once and found again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcli.errors import Problems, UserError
from ftcli.notes import silenced
from ftcli.reproduce import bases
from ftcli.reproduce.recipe import SMALL, Recipe, joined
from ftcli.run import trial

STORE = "reproduce"


@dataclass(frozen=True)
class Trial:
    """One run: of which variant, with which seed, composed and checked, and where it lies."""

    variant: str
    seed: int
    composed: Any
    path: Path

    @property
    def done(self) -> bool:
        """Whether it has ended well."""
        return trial.finished(self.path) is not None


@dataclass
class Progress:
    """What is about to run: the k-th of n, and the seconds still to come, once one was timed."""

    number: int
    total: int
    trial: Trial
    left: float | None


class Experiment:
    """Some variants of a recipe over seeds 0, 1, ...

    Args:
        overrides: of the command line, for all variants.
    """

    def __init__(
        self,
        recipe: Recipe,
        variants: Sequence[str],
        seeds: int,
        scale: str = SMALL,
        overrides: Sequence[str] = (),
    ) -> None:
        self.recipe, self.seeds, self.scale = recipe, seeds, scale
        self.overrides = list(overrides)
        self.variants = list(dict.fromkeys(variants))
        self.trials = self._trials()

    @property
    def folder(self) -> Path:
        """Where report and runs lie."""
        return self.trials[0].path.parent

    def _trials(self) -> list[Trial]:
        """Seed by seed, so that every variant has a run before any has two."""
        composed, found = {}, []
        for variant in self.variants:
            try:
                composed[variant] = self._composed(variant)
            except UserError as error:
                found += error.problems if isinstance(error, Problems) else [error]
        Problems.raise_if_any(found)
        return [
            self._trial(variant, one, seed)
            for seed in range(self.seeds)
            for variant, one in composed.items()
        ]

    def _composed(self, variant: str) -> Any:
        from ftcli.config import compose, validate

        own = self.recipe.overrides(variant, self.scale)
        with silenced("config"):  # keys give way to a baseline's option: the recipe means it so
            composed = compose(self.recipe.path, joined(own, self.overrides))
            validate(composed)
        return composed

    def _trial(self, variant: str, composed: Any, seed: int) -> Trial:
        run = {**composed.config["run"], "name": f"{variant}-{seed}"}
        config = {**composed.config, "seed": seed, "run": run}
        seeded = replace(composed, config=config)
        seeded.overrides = [*composed.overrides, f"seed={seed}", f"run.name={run['name']}"]
        root = Path(run.get("dir", "runs")) / STORE / self.recipe.name
        return Trial(variant, seed, seeded, root / trial.address(config))

    def run(self, say: Callable[[Progress], None]) -> None:
        """Finish every run that is not; `say` is told before each.

        Raises:
            UserError: a run failed; those before it are kept.
        """
        waiting = [one for one in self.trials if not one.done]
        took: list[float] = []
        for number, one in enumerate(waiting, start=len(self.trials) - len(waiting) + 1):
            left = sum(took) / len(took) * (len(self.trials) - number + 1) if took else None
            say(Progress(number, len(self.trials), one, left))
            bases.ensure(one.composed)
            began = time.monotonic()
            trial.complete(one.composed, one.path)
            took.append(time.monotonic() - began)

    def of(self, variant: str) -> Iterator[Trial]:
        """The runs of a variant, by seed."""
        return (one for one in self.trials if one.variant == variant)
