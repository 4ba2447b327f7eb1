"""One trial of a sweep: its values, folder, status and result."""

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
    """A run of a sweep.

    Attributes:
        point: key -> value as text.
        overrides: the words of its command line after the job.
        status: one of the words above; a stopped trial is resumed with the sweep.
        error: message of its failure.
        result: content of result.json of a trial that has ended.
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
        """Set result and status from the folder; `code` is the exit status, `pruned` whether it was asked to stop."""
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
        """Return the metric of the trial; for a pruned trial the last one measured."""
        score = read_figures(self.result).get(metric)
        if score is None and self.status == PRUNED:
            scores = self.scores(metric)
            return scores[max(scores)] if scores else None
        return score

    def scores(self, metric: str) -> dict[int, float]:
        """Return step -> metric, as measured during training so far, without step 0."""
        rows = [row for row in self._metrics() if metric in row and row["step"] > 0]
        return {int(row["step"]): float(row[metric]) for row in rows}

    def step(self) -> int | None:
        """Return the last logged step."""
        rows = self._metrics()
        return int(rows[-1]["step"]) if rows else None

    def _metrics(self) -> list[dict[str, Any]]:
        """Return metrics.jsonl, read again only when it has grown, since it is polled several times a second."""
        file = self.folder / "metrics.jsonl"
        size = file.stat().st_size if file.exists() else 0
        if size != self._rows[0]:
            self._rows = (size, RunDir(self.folder).metrics())
        return self._rows[1]


def read_figures(result: Mapping[str, Any]) -> dict[str, int | float]:
    """Return all numbers of result.json by name: scores as `eval.<score>`, costs by their keys."""
    everything = {**result, **(result.get("metrics") or {})}
    return {
        key: v
        for key, v in everything.items()
        if isinstance(v, int | float) and not isinstance(v, bool)
    }


def folder_name(number: int, width: int, point: Point) -> str:
    """Return a folder name such as `03-r_8-lr_1e-4`, without characters that shells or overrides interpret."""
    short = shorten_keys(point)
    parts = [f"{short[key]}_{round_text(text)}" for key, text in point.items()]
    plain = re.sub(r"[^\w.+-]+", "_", "-".join(parts), flags=re.ASCII).strip("_.-")
    plain = re.sub(r"_{2,}", "_", plain)
    return f"{number:0{width}d}-{plain}"[:MAX_NAME].rstrip("_.-")


def describe_point(point: Point) -> str:
    """Return a point in words, such as `r=8 lr=1e-4`."""
    short = shorten_keys(point)
    return " ".join(f"{short[key]}={round_text(text)}" for key, text in point.items())


def round_text(text: str) -> str:
    """Return a value for display: long decimal numbers with 4 digits, other text unchanged."""
    if not re.fullmatch(r"-?\d*\.\d+(e[+-]?\d+)?", text) or len(text) <= 6:
        return text
    return f"{float(text):.4g}"


def shorten_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return dotted key -> its last part, or as many parts as distinguish it from the others."""
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
    """Return the first line of the last error of a run, or else the last line of its worker's log."""
    events = folder / "events.jsonl"
    if events.exists():
        last = events.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
        if '"event": "failed"' in last:
            return str(json.loads(last)["error"]).splitlines()[0]
    log = folder / "worker.log"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
