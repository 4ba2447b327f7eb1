"""Results of a sweep: sweep.csv, the best configuration as a runnable YAML, plots, a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.core import errors
from ftcli.core.atomic import write_text
from ftcli.sweeps import plots
from ftcli.sweeps.plan import Plan
from ftcli.sweeps.search import Search
from ftcli.sweeps.table import format_row, write_csv
from ftcli.sweeps.trial import FAILED, FINISHED, STOPPED, Trial, describe_point, read_figures


@dataclass
class Outcome:
    """State of a sweep at the end of its process.

    Attributes:
        best: the finished trial with the best score.
        status: exit status: 1 when a trial failed, 130 when the sweep or a trial was interrupted.
        note: message to the user beside the table.
    """

    folder: Path
    metric: str
    trials: list[Trial]
    best: Trial | None
    status: int
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for --json."""
        best = format_row(self.best, self.metric) if self.best else None
        return {
            "sweep": str(self.folder),
            "metric": self.metric,
            "status": self.status,
            "counts": dict(Counter(trial.status for trial in self.trials)),
            "best": best,
            "trials": [format_row(trial, self.metric) for trial in self.trials],
        }


def write_outcome(folder: Path, plan: Plan, search: Search, interrupted: bool) -> Outcome:
    """Write the results so far; returns the outcome."""
    trials = search.trials
    write_csv(folder / "sweep.csv", trials, plan.metric)
    best = _find_best(trials, plan)
    if best is not None:
        _write_best(folder / "best.yaml", best, plan)
        plots.draw_all(trials, plan, search.importance(), folder / "plots")
    outcome = Outcome(folder, plan.metric, trials, best, errors.OK)
    if interrupted or any(trial.status == STOPPED for trial in trials):
        outcome.status = errors.INTERRUPTED
        outcome.note = f"interrupted; go on with: ftcli sweep --resume {folder}"
    elif best is None or any(trial.status == FAILED for trial in trials):
        outcome.status = errors.FAILED
        outcome.note = _describe_failure(trials, plan.metric)
    return outcome


def _find_best(trials: Sequence[Trial], plan: Plan) -> Trial | None:
    scored = [(t.score(plan.metric), t) for t in trials if t.status == FINISHED]
    known = [(score, t) for score, t in scored if score is not None and score == score]
    if not known:
        return None
    return (min if plan.lower else max)(known, key=lambda pair: pair[0])[1]


def _write_best(path: Path, best: Trial, plan: Plan) -> None:
    config = (best.folder / "config.yaml").read_text(encoding="utf-8")
    head = f"Best of a sweep: {describe_point(best.point)} gave {plan.metric} {best.score(plan.metric):.6g}"
    write_text(path, f"# {head} (trial {best.number}, {best.folder.name})\n{config}")


def _describe_failure(trials: Sequence[Trial], metric: str) -> str:
    failed = [trial for trial in trials if trial.status == FAILED]
    if failed:
        first = failed[0]
        return (
            f"{len(failed)} of {len(trials)} trials failed, the first with: {first.error}\n"
            f"see {first.folder}/train.log and worker.log"
        )
    known = sorted({name for trial in trials for name in read_figures(trial.result)})
    return f"no trial measured {metric}; there is: {', '.join(known) or 'nothing'}"
