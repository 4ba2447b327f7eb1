"""The runs of a reproduction: variants over seeds, each trained once and reused afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.config.composition import compose_base
from ftcli.config.overrides import join_overrides
from ftcli.config.recipe import Recipe
from ftcli.core.atomic import write_json
from ftcli.core.config_hash import config_hash
from ftcli.core.errors import Problems, UserError
from ftcli.core.logs import silence_logger
from ftcli.jobs import trial
from ftcli.jobs.bases import train_missing_base

if TYPE_CHECKING:
    from ftcli.config import ComposedJob

STORE = "reproduce"
RUNS = "runs.json"  # beside the runs: variant and seed -> folder, for the present version of the recipe


@dataclass(frozen=True)
class Trial:
    """One run of a variant with a seed: its composed job and its folder.

    Attributes:
        sources: all composed jobs of the run: the job itself, its stages, its base.
    """

    variant: str
    seed: int
    composed: ComposedJob
    path: Path
    sources: list[ComposedJob] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether the run has finished."""
        return trial.read_finished_result(self.path) is not None


@dataclass
class Progress:
    """The run that starts next, its number of how many, and the estimated seconds left."""

    number: int
    total: int
    trial: Trial
    left: float | None


class Experiment:
    """The runs of some variants of a recipe over seeds.

    Args:
        variants: name -> overrides of the job.
        overrides: overrides of the command line, for all variants.
        part: subfolder of the recipe's folder for these runs.
    """

    def __init__(
        self,
        recipe: Recipe,
        variants: Mapping[str, Sequence[str]],
        seeds: Sequence[int],
        overrides: Sequence[str] = (),
        part: str = "",
    ) -> None:
        self.recipe, self.seeds, self.part = recipe, list(seeds), part
        self.changes, self.overrides = dict(variants), list(overrides)
        self.trials = self._build_trials()

    @property
    def variants(self) -> list[str]:
        """Names of the variants."""
        return list(self.changes)

    @property
    def folder(self) -> Path:
        """The folder of the report and the runs."""
        return self.trials[0].path.parent

    def _build_trials(self) -> list[Trial]:
        """Return all trials, seed by seed, so that every variant has one run before any has two."""
        jobs: dict[str, list[ComposedJob]] = {}
        problems: list[UserError] = []
        for variant in self.variants:
            try:
                jobs[variant] = self._compose_variant(variant)
            except UserError as error:
                problems += error.problems if isinstance(error, Problems) else [error]
        Problems.raise_if_any(problems)
        return [
            self._build_trial(variant, sources, seed)
            for seed in self.seeds
            for variant, sources in jobs.items()
        ]

    def _compose_variant(self, variant: str) -> list[ComposedJob]:
        """Return the composed job of a variant, its stages and its base."""
        from ftcli.config import compose, validate_and_convert
        from ftcli.jobs import stages

        with silence_logger(
            "config"
        ):  # keys give way to a baseline's option: the recipe means it so
            composed = compose(
                self.recipe.path, join_overrides(self.changes[variant], self.overrides)
            )
            validate_and_convert(composed)
            parts = stages.compose_stages(composed) if composed.config.get(stages.KEY) else {}
            base = [compose_base(composed.base_job)] if composed.base_job else []
        return [composed, *parts.values(), *base]

    def _build_trial(self, variant: str, sources: list[ComposedJob], seed: int) -> Trial:
        composed, *further = sources
        run = {**composed.config["run"], "name": f"{variant}-{seed}"}
        config = {**composed.config, "seed": seed, "run": run}
        seeded = replace(composed, config=config)
        seeded.overrides = [*composed.overrides, f"seed={seed}", f"run.name={run['name']}"]
        root = Path(run.get("dir", "runs")) / STORE / self.recipe.name / self.part
        name = config_hash(config, *(job.config for job in further))
        return Trial(variant, seed, seeded, root / name, sources)

    def run(self, report: Callable[[Progress], None], may_fail: bool = False) -> None:
        """Train every unfinished run; `report` is called before each.

        Args:
            may_fail: continue when a run fails; that run then has no result.

        Raises:
            UserError: a run failed; finished runs are kept.
        """
        waiting = [run for run in self.trials if not run.done]
        took: list[float] = []
        for number, run in enumerate(waiting, start=len(self.trials) - len(waiting) + 1):
            left = sum(took) / len(took) * (len(self.trials) - number + 1) if took else None
            report(Progress(number, len(self.trials), run, left))
            train_missing_base(run.composed)
            began = time.monotonic()
            try:
                trial.complete_job(run.composed, run.path)
            except UserError:
                if not may_fail:
                    raise
            took.append(time.monotonic() - began)
        self._write_index()

    def _write_index(self) -> None:
        """Write which folder holds which run now; other folders belong to earlier versions of the recipe."""
        path = self.folder / RUNS
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        known = self.recipe.variants()
        kept = {name: run for name, run in kept.items() if name.rpartition("-")[0] in known}
        write_json(path, kept | {f"{t.variant}-{t.seed}": t.path.name for t in self.trials})

    def trials_of(self, variant: str) -> Iterator[Trial]:
        """Return the runs of a variant, by seed."""
        return (run for run in self.trials if run.variant == variant)
