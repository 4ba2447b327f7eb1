"""Names of the scores that the evaluators of a job give, read from source, and a check of the score that ends a run.

Nothing is imported or evaluated. An evaluator whose names cannot be read is taken to give any score.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ftcli.config.class_lookup import find_definition
from ftcli.config.job import TARGET, ComposedJob, read_keys
from ftcli.config.paths import find_nearest
from ftcli.config.returned_keys import join_keys, read_returned_keys
from ftcli.core.errors import UserError

EARLY_STOPPING = "ftcli.callbacks.early_stopping.EarlyStopping"
METRICS = "ftcli.evaluation.metrics"  # each module has a function of its own name


@dataclass(frozen=True)
class EvaluatorScores:
    """The scores of one evaluator of a job.

    Attributes:
        periodic: whether it also runs at `trainer.eval_every`.
        names: names of its scores, with * where a part is only known from the data; None: not known.
    """

    evaluator: str
    periodic: bool
    names: frozenset[str] | None


def check_stopping_score(composed: ComposedJob) -> Iterator[UserError]:
    """Early stopping needs a score that an evaluator gives while the run trains."""
    callbacks = composed.config.get("callback") or {}
    for name, node in callbacks.items():
        if isinstance(node, Mapping) and node.get(TARGET) == EARLY_STOPPING:
            evaluators = list(list_scores(composed.config))
            score = str(_get_setting(node, "score")).removeprefix("eval.")
            sets = composed.get("data.eval_sets") or {}
            error = _find_score_problem(f"callback.{name}.score", score, evaluators, sets)
            if error is not None:
                error.where = composed.where(f"callback.{name}.score")
                yield error


def list_scores(config: Mapping[str, Any]) -> Iterator[EvaluatorScores]:
    """Yield the scores of each evaluator of a configuration."""
    for name, node in (config.get("eval") or {}).items():
        if isinstance(node, Mapping) and isinstance(node.get(TARGET), str):
            yield EvaluatorScores(name, bool(_get_setting(node, "periodic")), _read_names(node))


def _get_setting(node: Mapping[str, Any], name: str) -> Any:
    """Return a key of a node, or the default of its class; None without either."""
    parameter = read_keys(node).parameters.get(name)
    default = parameter.default if parameter is not None and parameter.has_value else None
    return node.get(name, default)


def _read_names(node: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the names of an evaluator's scores: those of its `metrics`, else the keys that `__call__` returns."""
    metrics = _get_setting(node, "metrics")
    if isinstance(metrics, list):
        functions = [find_definition(f"{METRICS}.{metric}.{metric}") for metric in metrics]
        return join_keys(_read_function(found.node if found else None, {}) for found in functions)
    definition = find_definition(node[TARGET])
    body = getattr(definition.node, "body", []) if definition else []
    call = next((item for item in body if getattr(item, "name", "") == "__call__"), None)
    settings = {name: _get_setting(node, name) for name in read_keys(node).parameters}
    return _read_function(call, settings)


def _read_function(node: ast.AST | None, settings: Mapping[str, Any]) -> frozenset[str] | None:
    return read_returned_keys(node, settings) if isinstance(node, ast.FunctionDef) else None


def _find_score_problem(
    key: str, score: str, evaluators: list[EvaluatorScores], sets: Mapping[str, Any]
) -> UserError | None:
    """Return the error for a score that no evaluator gives while the run trains, if that is known."""
    periodic = [e for e in evaluators if e.periodic]
    # a run without a periodic evaluator is refused by the callback, whatever its score
    if not periodic or any(e.names is None or _gives(e, score, sets) for e in periodic):
        return None
    seldom = [e for e in evaluators if not e.periodic]
    late = next((e for e in seldom if e.names is not None and _gives(e, score, sets)), None)
    names = sorted({n for e in periodic for n in e.names or () if "*" not in n})
    if late is not None:
        what = f"{key}={score}: eval.{late.evaluator} gives it before and after training only, "
        what += f"not at trainer.eval_every. Given there: {', '.join(names) or 'none'}."
        return UserError(what, fix=f"eval.{late.evaluator}.periodic=true")
    owners = {n: e for e in (*seldom, *periodic) for n in e.names or () if "*" not in n}
    what = f"{key}={score}: no evaluator of the job gives that score at trainer.eval_every. "
    what += f"Given there: {', '.join(names) or 'none'}."
    near = find_nearest(score, owners, 1) or [n for n in ("loss", *names) if n in names]
    if not near:
        return UserError(what, fix="ftcli ls evals")
    owner = owners[near[0]]
    more = "" if owner.periodic else f" eval.{owner.evaluator}.periodic=true"
    return UserError(what, fix=f"{key}={near[0]}{more}")


def _gives(scores: EvaluatorScores, score: str, sets: Mapping[str, Any]) -> bool:
    """Whether an evaluator gives a score, also as that of a named set, or by its name where two give it."""
    for prefix in ("", *(f"{name}/" for name in sets)):
        for start in (prefix, f"{prefix}{scores.evaluator}."):
            rest = score.removeprefix(start)
            if score.startswith(start) and any(fnmatchcase(rest, n) for n in scores.names or ()):
                return True
    return False
