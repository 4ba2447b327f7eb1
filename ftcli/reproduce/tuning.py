"""The search of settings of a recipe (`tune:`), and its stored result `tuned.yaml`.

Every variant gets the same number of trials, with rows and a seed that are not used for verdicts. The
chosen settings are stored with all trials beside the verdicts and applied to every judged run.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ftcli.config.overrides import join_overrides
from ftcli.config.recipe import Recipe, Tune
from ftcli.core.atomic import write_text
from ftcli.core.errors import UserError
from ftcli.reproduce import measure, origin
from ftcli.reproduce.experiment import Experiment, Progress, Trial

FILE = "tuned.yaml"
FOLDER = "tune"  # subfolder of the recipe's runs, for the trials
HEAD = "# Written by `ftcli reproduce {name} --tune`: every trial, and what was chosen a variant.\n"


class Search:
    """The trials of a recipe.

    Args:
        overrides: overrides of the command line, for every trial.

    Raises:
        UserError: the recipe has no search, or the search evaluates on rows that judge the claims.
    """

    def __init__(self, recipe: Recipe, overrides: list[str] | None = None) -> None:
        if recipe.tune is None:
            raise UserError(
                f"{recipe.name} has no search of settings.", "--tune", "add `tune:` to the recipe"
            )
        self.recipe, self.tune = recipe, recipe.tune
        self.points = {v: self.tune.list_points(v) for v in recipe.variants()}
        trials = {
            f"{variant}-{number}": join_overrides(
                recipe.overrides(variant), point, self.tune.changes
            )
            for variant, points in self.points.items()
            for number, point in enumerate(points)
        }
        self.experiment = Experiment(recipe, trials, [self.tune.seed], overrides or [], FOLDER)
        self._refuse_judged_rows(overrides or [])

    def _refuse_judged_rows(self, overrides: list[str]) -> None:
        changes = {self.recipe.own: self.recipe.overrides(self.recipe.own)}
        judged = Experiment(self.recipe, changes, self.recipe.seeds[:1], overrides).trials[0]
        searched = next(self.experiment.trials_of(f"{self._find_first_searched()}-0"))
        if _find_evaluated_rows(judged.composed.config) & _find_evaluated_rows(
            searched.composed.config
        ):
            raise UserError(
                "the search would choose settings on the rows that judge the claims.",
                where=f"{self.recipe.path.name}: tune.changes",
                fix="tune.changes: [eval.loss.split=validation], where the job judges by test",
            )

    def _find_first_searched(self) -> str:
        return next(variant for variant, points in self.points.items() if points)

    def run(self, report: Callable[[Progress], None]) -> dict[str, Any]:
        """Train all trials; returns the content of `tuned.yaml`.

        A trial that fails, or whose loss is NaN or infinite, has no score and is not chosen.

        Raises:
            UserError: no trial of a variant has a score.
        """
        self.experiment.run(report, may_fail=True)
        return {
            "by": self.tune.by,
            "seed": self.tune.seed,
            "date": time.strftime("%Y-%m-%d"),
            "commit": origin.current_commit(),
            "variants": {v: self._choose(v, points) for v, points in self.points.items() if points},
        }

    def _choose(self, variant: str, points: list[list[str]]) -> dict[str, Any]:
        names = [f"{variant}-{number}" for number in range(len(points))]
        scores = [self._score(next(self.experiment.trials_of(name))) for name in names]
        known = [
            (score, point) for score, point in zip(scores, points, strict=True) if score is not None
        ]
        if not known:
            what = f"no trial of {variant} has {self.tune.by}."
            raise UserError(what, "--tune", f"see {self.experiment.folder}")
        best = (max if self.tune.highest else min)(known, key=lambda pair: pair[0])
        trials = [{"set": p, self.tune.by: s} for p, s in zip(points, scores, strict=True)]
        return {"chosen": best[1], "of": state(self.recipe, variant), "trials": trials}

    def _score(self, trial: Trial) -> float | None:
        try:
            score = measure.read_metric(self.tune.by, trial.path) if trial.done else math.nan
        except measure.MetricUnavailable:
            return None
        return score if math.isfinite(score) else None


def _find_evaluated_rows(config: dict[str, Any]) -> set[tuple[str, str]]:
    """Return (data, split) of every evaluator; parts of one split count as the same rows."""
    data = str(config["data"].get("path"))
    return {(data, node.get("split", "validation")) for node in config["eval"].values()}


def state(recipe: Recipe, variant: str) -> str:
    """Return a hash of the inputs of a variant's search (job, variant, grid, rows): 12 hex digits."""
    tune = recipe.tune
    assert isinstance(tune, Tune)
    stated = [
        origin.job_of(recipe.path),
        recipe.overrides(variant),
        [tune.list_points(variant), tune.changes, tune.by, tune.highest, tune.seed],
    ]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


def path_of(recipe: Recipe) -> Path:
    """Return the file of the stored search."""
    return recipe.get_path(FILE)


def load_search(recipe: Recipe) -> dict[str, Any]:
    """Return the stored search; empty where there is none."""
    path = path_of(recipe)
    kept = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    return kept or {}


def store_search(recipe: Recipe, searched: dict[str, Any]) -> Path:
    """Store a search beside the recipe; returns the file."""
    text = yaml.safe_dump(searched, sort_keys=False, default_flow_style=None, width=100)
    write_text(path_of(recipe), HEAD.format(name=recipe.name) + text)
    return path_of(recipe)


def find_missing(recipe: Recipe) -> list[str]:
    """Return the variants whose search is missing or belongs to another version of the recipe."""
    if recipe.tune is None:
        return []
    kept = load_search(recipe).get("variants", {})
    searched = [v for v in recipe.variants() if recipe.tune.list_points(v)]
    return [v for v in searched if kept.get(v, {}).get("of") != state(recipe, v)]


def require_choices(recipe: Recipe) -> dict[str, list[str]]:
    """Return variant -> overrides of its judged runs; empty where the recipe has no search of settings.

    Raises:
        UserError: the search is missing or belongs to another version of the recipe.
    """
    absent = find_missing(recipe)
    if absent:
        raise UserError(
            f"the settings of {', '.join(absent)} have not been searched for the recipe as it is now.",
            where=recipe.path.name,
            fix=f"ftcli reproduce {recipe.name} --tune",
        )
    return load_choices(recipe)


def load_choices(recipe: Recipe) -> dict[str, list[str]]:
    """Return variant -> overrides of the stored search, whichever version of the recipe it belongs to."""
    if recipe.tune is None:
        return {}
    return {v: search["chosen"] for v, search in load_search(recipe).get("variants", {}).items()}
