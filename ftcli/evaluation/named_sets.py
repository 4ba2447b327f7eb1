"""Evaluators of a job on the named sets of `data.eval_sets`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ftcli.core.errors import UserError


def add_named_sets(evaluators: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Return the evaluators and, as `<set>/<evaluator>`, a copy of them for each named set.

    A set takes the evaluators that it lists, or all that read a split. What a copy returns is logged
    as `eval.<set>/<score>`.

    Raises:
        UserError: a set lists an evaluator that the job does not have, or that reads no split.
    """
    every = dict(evaluators)
    fitting = {name: one for name, one in evaluators.items() if hasattr(one, "split")}
    for name, settings in getattr(data, "eval_sets", {}).items():
        chosen = fitting if settings.eval is None else settings.eval
        for task in chosen:
            if task not in fitting:
                raise UserError(
                    f"the job has no evaluator '{task}' that reads rows.",
                    where=f"data.eval_sets.{name}.eval",
                    fix=f"one of: {', '.join(fitting)}" if fitting else "eval=loss",
                )
            every[f"{name}/{task}"] = select_split(fitting[task], name)
    return every


def select_split(evaluator: Any, split: str) -> Any:
    """Return the evaluator for another split; its samples are written to a file of that name."""
    named = {"name": f"{evaluator.name}-{split}"} if hasattr(evaluator, "name") else {}
    return replace(evaluator, split=split, **named)


def add_score(scores: dict[str, float], evaluator: str, key: str, value: float) -> None:
    """Add a score as `eval.<score>`, or `eval.<set>/<score>` of the evaluator `<set>/<name>`.

    The evaluator's name is put in front of a score that another evaluator has already.
    """
    group, slash, name = evaluator.rpartition("/")
    prefix = f"eval.{group}{slash}"
    taken = f"{prefix}{key}" in scores
    scores[f"{prefix}{name}.{key}" if taken else f"{prefix}{key}"] = value
