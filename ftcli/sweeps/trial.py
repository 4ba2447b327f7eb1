"""One trial of a sweep: what it changes, where it lies, how it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcli.core.run_dir import RunDir
from ftcli.sweeps.space import Point

MAX_NAME = 80  # characters of a folder's name

WAITING, RUNNING, FINISHED, PRUNED, FAILED, STOPPED = (
    "waiting", "running", "finished", "pruned", "failed", "stopped",
)  # fmt: skip
ENDED = (FINISHED, PRUNED, FAILED)


@dataclass
class Trial:
    """A run among those of a sweep.

    Attributes:
        point: key -> value as text, of what it changes.
        overrides: its whole command line after the job.
        status: one of the words above; a stopped trial goes on when the sweep is resumed.
        error: why it failed.
        result: result.json, of a trial that has ended.
    """

    number: int
    point: Point
    overrides: list[str]
    folder: Path
    status: str = WAITING
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    _rows: tuple[int, list[dict[str, Any]]] = (-1, [])

    def record_exit(self, code: int, pruned: bool = False) -> None:
        """Take what the worker left; `code` is its exit status, `pruned` that it was told to stop."""
        self.result = RunDir(self.folder).result()
        run_status = str(self.result.get("status", ""))
        (self.folder / "STOP").unlink(missing_ok=True)
        if run_status == "finished":
            self.status = FINISHED
        elif run_status.startswith("stopped"):
            self.status = PRUNED if pruned else STOPPED
        else:
            self.status, self.result = FAILED, {}
            self.error = _read_reason(self.folder) or f"ended with status {code}"

    def score(self, metric: str) -> float | None:
        """The figure the sweep is about; of a pruned trial the last one measured."""
        score = read_figures(self.result).get(metric)
        if score is None and self.status == PRUNED:
            scores = self.scores(metric)
            return scores[max(scores)] if scores else None
        return score

    def scores(self, metric: str) -> dict[int, float]:
        """Step -> the figure, as measured during training so far; step 0 is left out."""
        rows = [row for row in self._metrics() if metric in row and row["step"] > 0]
        return {int(row["step"]): float(row[metric]) for row in rows}

    def step(self) -> int | None:
        """The last step that was logged."""
        rows = self._metrics()
        return int(rows[-1]["step"]) if rows else None

    def _metrics(self) -> list[dict[str, Any]]:
        """metrics.jsonl, read again only when it has grown: it is looked at several times a second."""
        file = self.folder / "metrics.jsonl"
        size = file.stat().st_size if file.exists() else 0
        if size != self._rows[0]:
            self._rows = (size, RunDir(self.folder).metrics())
        return self._rows[1]


def read_figures(result: Mapping[str, Any]) -> dict[str, int | float]:
    """All numbers of a result.json by name: scores as `eval.<score>`, costs as they are called."""
    everything = {**result, **(result.get("metrics") or {})}
    return {
        key: v
        for key, v in everything.items()
        if isinstance(v, int | float) and not isinstance(v, bool)
    }


def folder_name(number: int, width: int, point: Point) -> str:
    """`03-r_8-lr_1e-4`: characters that shells, file systems and overrides take as they are."""
    short = shorten_keys(point)
    parts = [f"{short[key]}_{round_text(text)}" for key, text in point.items()]
    plain = re.sub(r"[^\w.+-]+", "_", "-".join(parts), flags=re.ASCII).strip("_.-")
    plain = re.sub(r"_{2,}", "_", plain)
    return f"{number:0{width}d}-{plain}"[:MAX_NAME].rstrip("_.-")


def describe_point(point: Point) -> str:
    """`r=8 lr=1e-4`."""
    short = shorten_keys(point)
    return " ".join(f"{short[key]}={round_text(text)}" for key, text in point.items())


def round_text(text: str) -> str:
    """A value as people read it: numbers with more than 4 digits to 4, anything else as it is."""
    if not re.fullmatch(r"-?\d*\.\d+(e[+-]?\d+)?", text) or len(text) <= 6:
        return text
    return f"{float(text):.4g}"


def shorten_keys(keys: Iterable[str]) -> dict[str, str]:
    """Dotted key -> its last part, or as many parts as tell it from the others."""
    keys, short = list(keys), {}
    for key in keys:
        parts = re.split(r"[./]", key)
        for size in range(1, len(parts) + 1):
            name = ".".join(parts[-size:])
            if sum(("." + other.replace("/", ".")).endswith("." + name) for other in keys) == 1:
                break
        short[key] = name
    return short


def _read_reason(folder: Path) -> str:
    """The first line of the last error of a run, or else the last of what its worker printed."""
    events = folder / "events.jsonl"
    if events.exists():
        last = events.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
        if '"event": "failed"' in last:
            return str(json.loads(last)["error"]).splitlines()[0]
    log = folder / "worker.log"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
