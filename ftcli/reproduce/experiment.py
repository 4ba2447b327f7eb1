"""The runs of a reproduction: variants over seeds, each done once and found again."""

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
from ftcli.jobs.bases import ensure_base

if TYPE_CHECKING:
    from ftcli.config import ComposedJob

STORE = "reproduce"
RUNS = "runs.json"  # beside the runs: variant and seed -> folder, of the recipe as it was run last


@dataclass(frozen=True)
class Trial:
    """One run: of which variant, with which seed, composed and checked, and where it lies.

    Attributes:
        sources: all jobs that it consists of: itself, its stages, its base.
    """

    variant: str
    seed: int
    composed: ComposedJob
    path: Path
    sources: list[ComposedJob] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether it has ended well."""
        return trial.read_finished_result(self.path) is not None


@dataclass
class Progress:
    """What is about to run: the k-th of n, and the seconds still to come, once one was timed."""

    number: int
    total: int
    trial: Trial
    left: float | None


class Experiment:
    """Some variants of a recipe's job over seeds.

    Args:
        variants: name -> overrides of the job.
        overrides: of the command line, for all variants.
        part: folder of these runs below the recipe's.
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
        """Their names."""
        return list(self.changes)

    @property
    def folder(self) -> Path:
        """Where report and runs lie."""
        return self.trials[0].path.parent

    def _build_trials(self) -> list[Trial]:
        """Seed by seed, so that every variant has a run before any has two."""
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
        """The job, its stages and its base."""
        from ftcli.config import compose, validate
        from ftcli.jobs import stages

        with silence_logger(
            "config"
        ):  # keys give way to a baseline's option: the recipe means it so
            composed = compose(
                self.recipe.path, join_overrides(self.changes[variant], self.overrides)
            )
            validate(composed)
            parts = stages.compose_stages(composed) if composed.config.get(stages.KEY) else {}
            base = [compose_base(composed.base)] if composed.base else []
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
        """Finish every run that is not; `report` is called before each.

        Args:
            may_fail: go on where a run fails; it then has no result.

        Raises:
            UserError: a run failed; those before it are kept.
        """
        waiting = [run for run in self.trials if not run.done]
        took: list[float] = []
        for number, run in enumerate(waiting, start=len(self.trials) - len(waiting) + 1):
            left = sum(took) / len(took) * (len(self.trials) - number + 1) if took else None
            report(Progress(number, len(self.trials), run, left))
            ensure_base(run.composed)
            began = time.monotonic()
            try:
                trial.complete_job(run.composed, run.path)
            except UserError:
                if not may_fail:
                    raise
            took.append(time.monotonic() - began)
        self._write_index()

    def _write_index(self) -> None:
        """Say which folder is which run now: others are of earlier states of the recipe."""
        path = self.folder / RUNS
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        known = self.recipe.variants()
        kept = {name: run for name, run in kept.items() if name.rpartition("-")[0] in known}
        write_json(path, kept | {f"{t.variant}-{t.seed}": t.path.name for t in self.trials})

    def trials_of(self, variant: str) -> Iterator[Trial]:
        """The runs of a variant, by seed."""
        return (run for run in self.trials if run.variant == variant)
