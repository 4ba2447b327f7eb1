"""The trials as a table: sweep.csv, a live table on a terminal, one line per trial elsewhere."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.atomic import write_text
from ftcli.evaluation.scores import COSTS
from ftcli.sweeps.trial import (
    ENDED,
    FINISHED,
    PRUNED,
    RUNNING,
    STOPPED,
    Trial,
    describe_point,
    read_figures,
    round_text,
    shorten_keys,
)

if TYPE_CHECKING:
    from typing import Self

    from rich.table import Table

FIRST = ("number", "status")
FIGURES = ("step", "tok_s", *sorted(COSTS))


def write_csv(path: Path, trials: Sequence[Trial], metric: str) -> None:
    """Write one line per trial: number, status, values, scores, costs, folder, error."""
    lines = [format_row(trial, metric) for trial in trials]
    names = dict.fromkeys(name for line in lines for name in line)
    last = ("folder", "error")
    columns = [*(n for n in names if n not in last), *last]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def format_row(trial: Trial, metric: str) -> dict[str, Any]:
    """Return a trial as flat data, without figures that were not measured."""
    figures = read_figures(trial.result)
    row: dict[str, Any] = {"number": trial.number, "status": trial.status, **trial.point}
    score = trial.score(metric)
    if score is not None:
        row[metric] = score
    scores = {key: v for key, v in figures.items() if key.startswith("eval.") and key != metric}
    row |= scores | {key: figures[key] for key in FIGURES if key in figures}
    row["folder"] = trial.folder.name
    return row | ({"error": trial.error} if trial.error else {})


class SilentView:
    """A view that shows nothing; base of the other views."""

    def __init__(self, trials: Sequence[Trial], planned: int, metric: str) -> None:
        self.trials, self.planned, self.metric = trials, planned, metric

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def update(self) -> None:
        """Called when trials may have progressed."""

    def show_end(self, trial: Trial) -> None:
        """Called when a trial has ended."""


class LineView(SilentView):
    """Prints a line for each trial that ends, which is suitable for a log file."""

    def show_end(self, trial: Trial) -> None:
        """Print the trial."""
        from ftcli.core.console import console

        done = sum(t.status in ENDED for t in self.trials)
        score = trial.score(self.metric)
        parts = [
            f"{done}/{self.planned}",
            f"#{trial.number}",
            describe_point(trial.point),
            trial.status,
        ]
        parts += [f"{self.metric} {score:.4f}"] if score is not None else []
        parts += [f"{trial.result['seconds']:.0f} s"] if "seconds" in trial.result else []
        parts += [trial.error] if trial.error else []
        console().print("  ".join(parts), markup=False)


class LiveView(SilentView):
    """Shows the table of all trials, redrawn while they run."""

    def __enter__(self) -> Self:
        from rich.live import Live as Screen

        from ftcli.core.console import console

        self._screen = Screen(console=console(), refresh_per_second=4, get_renderable=self._build)
        self._screen.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop redrawing and leave the last table on the screen."""
        self._screen.stop()

    def _build(self) -> Table:
        return build_table(self.trials, self.metric, limit=24)


def build_table(trials: Sequence[Trial], metric: str, limit: int | None = None) -> Table:
    """Return the trials as a rich table; of more than `limit` the latest that have started."""
    from rich.table import Table

    short = shorten_keys(trials[0].point) if trials else {}
    shown = Table("#", *short.values(), "status", metric, "steps", "s", box=None, pad_edge=False)
    chosen = list(trials)
    if limit is not None and len(trials) > limit:
        begun = [t for t in trials if t.status in (*ENDED, RUNNING, STOPPED)]
        chosen = begun[-limit:]
    for trial in chosen:
        shown.add_row(*_format_cells(trial, metric), style=_STYLE.get(trial.status))
    return shown


_STYLE = {RUNNING: "bold", "failed": "red", PRUNED: "dim", "waiting": "dim", FINISHED: None}


def _format_cells(trial: Trial, metric: str) -> list[str]:
    score, step = trial.score(metric), trial.step() if trial.status == RUNNING else None
    if step is None:
        step = trial.result.get("step")
    seconds = trial.result.get("seconds")
    return [
        str(trial.number),
        *map(round_text, trial.point.values()),
        trial.status,
        f"{score:.4f}" if score is not None else "–",
        str(step) if step is not None else "–",
        f"{seconds:.0f}" if seconds is not None else "–",
    ]
