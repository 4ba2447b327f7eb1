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
from ftcli.config.recipe import SMALL, Recipe, Tune
from ftcli.core.atomic import write_text
from ftcli.core.errors import UserError
from ftcli.reproduce import measure, origin
from ftcli.reproduce.experiment import Experiment, Progress, Trial

FILE = "tuned.yaml"
SCALES = "scales"  # key of the file: searches at other scales than the small one
FOLDER = "tune"  # subfolder of the recipe's runs, for the trials
HEAD = "# Written by `ftcli reproduce {name} --tune`: every trial, and what was chosen a variant.\n"


class Search:
    """The trials of a recipe at one scale.

    Args:
        overrides: overrides of the command line, for every trial.
        scale: a scale that has a search.

    Raises:
        UserError: the recipe has no search, or the search evaluates on rows that judge the claims.
    """

    def __init__(
        self, recipe: Recipe, overrides: list[str] | None = None, scale: str = SMALL
    ) -> None:
        tune = recipe.get_tune(scale)
        if tune is None:
            what = f"{recipe.name} has no search of settings at the {scale} scale."
            key = "tune:" if scale == SMALL else f"tune.scales.{scale}:"
            raise UserError(what, "--tune", f"add `{key}` to the recipe")
        self.recipe, self.tune, self.scale = recipe, tune, scale
        self.points = {v: self.tune.list_points(v) for v in recipe.list_searched(scale)}
        trials = {
            f"{variant}-{number}": join_overrides(
                recipe.overrides(variant, scale), point, self.tune.changes
            )
            for variant, points in self.points.items()
            for number, point in enumerate(points)
        }
        self.experiment = Experiment(recipe, trials, [self.tune.seed], overrides or [], FOLDER)
        self._refuse_judged_rows(overrides or [])

    def _refuse_judged_rows(self, overrides: list[str]) -> None:
        changes = {self.recipe.own: self.recipe.overrides(self.recipe.own, self.scale)}
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
        return {"chosen": best[1], "of": state(self.recipe, variant, self.scale), "trials": trials}

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


def state(recipe: Recipe, variant: str, scale: str = SMALL) -> str:
    """Return a hash of the inputs of a variant's search (job, variant, grid, rows): 12 hex digits."""
    tune = recipe.get_tune(scale)
    assert isinstance(tune, Tune)
    stated = [
        origin.job_of(recipe.path),
        recipe.overrides(variant, scale),
        [tune.list_points(variant), tune.changes, tune.by, tune.highest, tune.seed],
    ]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


def path_of(recipe: Recipe) -> Path:
    """Return the file of the stored search."""
    return recipe.get_path(FILE)


def load_search(recipe: Recipe, scale: str = SMALL) -> dict[str, Any]:
    """Return the stored search of a scale; empty where there is none."""
    kept = _load_file(recipe)
    return kept if scale == SMALL else kept.get(SCALES, {}).get(scale, {})


def _load_file(recipe: Recipe) -> dict[str, Any]:
    path = path_of(recipe)
    kept = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    return kept or {}


def store_search(recipe: Recipe, searched: dict[str, Any], scale: str = SMALL) -> Path:
    """Store a search beside the recipe, and keep those of other scales; returns the file."""
    kept = _load_file(recipe)
    scales = kept.pop(SCALES, {})
    if scale == SMALL:
        kept = searched
    else:
        scales[scale] = searched
    kept |= {SCALES: scales} if scales else {}
    text = yaml.safe_dump(kept, sort_keys=False, default_flow_style=None, width=100)
    write_text(path_of(recipe), HEAD.format(name=recipe.name) + text)
    return path_of(recipe)


def find_missing(recipe: Recipe, scale: str = SMALL) -> list[str]:
    """Return the variants whose search is missing or belongs to another version of the recipe."""
    tune = recipe.get_tune(scale)
    if tune is None:
        return []
    kept = load_search(recipe, scale).get("variants", {})
    searched = [v for v in recipe.list_searched(scale) if tune.list_points(v)]
    return [v for v in searched if kept.get(v, {}).get("of") != state(recipe, v, scale)]


def require_choices(recipe: Recipe, scale: str = SMALL) -> dict[str, list[str]]:
    """Return variant -> overrides of its judged runs; empty where the recipe has no search of settings.

    Raises:
        UserError: the search is missing or belongs to another version of the recipe.
    """
    absent = find_missing(recipe, scale)
    if absent:
        at = "" if scale == SMALL else f" --scale {scale}"
        raise UserError(
            f"the settings of {', '.join(absent)} have not been searched for the recipe as it is now.",
            where=recipe.path.name,
            fix=f"ftcli reproduce {recipe.name} --tune{at}",
        )
    return load_choices(recipe, scale)


def load_choices(recipe: Recipe, scale: str = SMALL) -> dict[str, list[str]]:
    """Return variant -> overrides of the stored search, whichever version of the recipe it belongs to."""
    if recipe.get_tune(scale) is None:
        return {}
    kept = load_search(recipe, scale).get("variants", {})
    return {v: search["chosen"] for v, search in kept.items()}
