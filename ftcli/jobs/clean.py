"""Remove checkpoints of runs by a rule; what resume and the verbs after training need stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.core.run_lock import lock_run
from ftcli.trainer.manifest import DONE, find_damage, step_of, total_bytes

SPARE = 2  # newest checkpoints of an unfinished run: resume falls back on the second


@dataclass(frozen=True)
class Rule:
    """A rule for the checkpoints of a run that are kept.

    Attributes:
        last: how many of the newest; at least 1.
        best: whether the one with the lowest `eval.loss`.
        every: those whose step is a multiple of this; None: no others.
    """

    last: int = 1
    best: bool = True
    every: int | None = None


@dataclass
class Cleaning:
    """The checkpoints that a rule removes from one run.

    Attributes:
        kept, removed: names of checkpoint folders, oldest first.
        bytes: size of the removed ones.
        notes: what is kept beyond the rule or lost by it, and why.
    """

    run: str
    kept: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    bytes: int = 0
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for --json."""
        return vars(self)


def find_runs(folders: Collection[str | Path]) -> list[Path]:
    """Return the runs in or below the folders: those of stages and of trials of sweeps too.

    Links are not followed.

    Raises:
        UserError: a folder does not exist, or holds no run.
    """
    found: dict[Path, None] = {}
    for folder in map(Path, folders):
        runs = sorted(_walk_runs(folder.resolve()))
        if not runs:
            what = "holds no run" if folder.is_dir() else "no such folder"
            raise UserError(f"{folder}: {what}.", fix="ftcli ls runs")
        found |= dict.fromkeys(runs)
    return list(found)


def _walk_runs(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        if "config.yaml" in files and (Path(place) / "checkpoints").is_dir():
            yield Path(place)
        folders[:] = [name for name in folders if name != "checkpoints" and name[0] != "."]


def clean_run(run: Path, rule: Rule, superseded: bool = False, delete: bool = False) -> Cleaning:
    """Return what the rule removes from a run, and remove it where `delete`.

    A run that another process trains, and one whose newest checkpoint is damaged, is left as it is.

    Args:
        superseded: the run is a trial that lost its sweep: all of its checkpoints are removed.
    """
    try:
        with lock_run(run, patience=0):
            plan = _plan_cleaning(run, rule, superseded)
            damaged = _find_damaged(run, plan.kept) if plan.removed else None
            if damaged:
                return Cleaning(str(run), kept=[*plan.removed, *plan.kept], notes=[damaged])
            if delete:
                _remove(run / "checkpoints", plan)
    except UserError as error:
        return Cleaning(str(run), notes=[error.what])
    return plan


def _plan_cleaning(run: Path, rule: Rule, superseded: bool) -> Cleaning:
    found = _list_checkpoints(run)
    finished = RunDir(run).result().get("status") == "finished"
    plan = Cleaning(str(run))
    all_go = superseded and finished
    kept = set() if all_go else _apply_rule(run, found, rule, finished, plan)
    plan.kept = [path.name for path in found if path.name in kept]
    going = [path for path in found if path.name not in kept]
    if going and all_go:
        plan.notes.append(
            "no checkpoint stays: eval, chat, merge and a longer resume end, adapter/ or model/ stays"
        )
    remains = _list_remains(run)
    if remains:
        plan.notes.append(f"{len(remains)} incomplete, left by a crash")
    plan.removed = [path.name for path in [*remains, *going]]
    plan.bytes = sum(total_bytes(path) for path in [*remains, *going])
    return plan


def _apply_rule(
    run: Path, found: list[Path], rule: Rule, finished: bool, plan: Cleaning
) -> set[str]:
    """Return the names that stay, and say in the plan's notes where that is more than the rule."""
    kept = {path.name for path in found[-max(1, rule.last) :]}
    best = (run / "checkpoints" / "best").resolve()
    if rule.best:
        kept.add(best.name)
    elif best in found and best.name not in kept:
        plan.notes.append(f"{best.name} is the best: --checkpoint best ends")
    if rule.every:
        kept |= {path.name for path in found if step_of(path) % rule.every == 0}
    if not finished and not kept.issuperset(path.name for path in found[-SPARE:]):
        kept |= {path.name for path in found[-SPARE:]}
        plan.notes.append(f"unfinished: resume needs the {SPARE} newest")
    return kept


def _remove(checkpoints: Path, plan: Cleaning) -> None:
    for name in plan.removed:
        # DONE first, so that a crash leaves no incomplete folder that counts
        (checkpoints / name / DONE).unlink(missing_ok=True)
        shutil.rmtree(checkpoints / name)
    for link in (checkpoints / "last", checkpoints / "best"):
        if link.is_symlink() and not link.exists():
            link.unlink()
    if plan.removed:
        RunDir(checkpoints.parent).append_event("cleaned", removed=plan.removed, kept=plan.kept)


def _find_damaged(run: Path, kept: list[str]) -> str | None:
    """Return why older checkpoints must stay: the newest kept one is damaged. None for an intact one."""
    wrong = find_damage(run / "checkpoints" / kept[-1]) if kept else None
    return f"{kept[-1]} is damaged ({wrong}): nothing was removed" if wrong else None


def _list_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted((p for p in _list_folders(run) if (p / DONE).is_file()), key=step_of)


def _list_remains(run: Path) -> list[Path]:
    return [path for path in _list_folders(run) if not (path / DONE).is_file()]


def _list_folders(run: Path) -> list[Path]:
    found = (run / "checkpoints").glob("step-*")
    return sorted(p for p in found if p.name[5:].isdigit() and p.is_dir() and not p.is_symlink())
