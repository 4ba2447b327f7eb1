"""Trials of a sweep that has ended: which one won, from the files in its folder."""

from __future__ import annotations

from pathlib import Path

from ftcli.core.run_dir import RunDir
from ftcli.sweeps.plan import FILE, Plan
from ftcli.sweeps.trial import read_figures


def find_best_trial(folder: Path) -> Path | None:
    """Return the trial with the best score of a sweep; None where it is no sweep or a trial goes on."""
    if not (folder / FILE).is_file():
        return None
    plan = Plan.read(folder)
    results = {file.parent: RunDir(file.parent).result() for file in folder.glob("*/config.yaml")}
    if not all(result.get("status") for result in results.values()):
        return None
    scores = {
        trial: figures[plan.metric]
        for trial, result in results.items()
        if result["status"] == "finished" and plan.metric in (figures := read_figures(result))
    }
    choose = min if plan.lower else max
    return choose(scores, key=lambda trial: scores[trial]) if scores else None
