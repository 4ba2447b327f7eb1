"""Repeat the first seed of judged runs with changed code, and compare figures to the bit.

Most changes of code (a new option, a renamed function) compute what the code before them computed. A
verdict whose figures of the first seed come out equal to the bit is confirmed: it names the commit
that made it and the one that repeated it. Where a figure differs, the verdict stays stale.

A processor of another kind sums in another order, so that even unchanged code gives other bits there. On such
a machine the earlier code is run as well, from its commit, and the two results are compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftcli.config.recipe import Claim, Recipe
from ftcli.core.atomic import write_json
from ftcli.core.errors import FAILED, UserError
from ftcli.reproduce import origin, tuning, verdicts
from ftcli.reproduce.experiment import Progress
from ftcli.reproduce.judge import NOT_HERE
from ftcli.reproduce.reproduction import Reproduction

CONFIRMED, DIFFERS, UNKNOWN = "confirmed", "differs", "cannot be repeated"


def confirm_verdicts(
    recipe: Recipe, scale: str, report: Callable[[Progress], None], rerun_old: bool = False
) -> dict[str, str]:
    """Repeat what the stale verdicts of a scale rest on, and store which of them are confirmed.

    Args:
        rerun_old: whether the first seed is compared with what the commit of the verdict computes on this
            machine, and not with the stored figure.

    Returns:
        Words of the claim -> confirmed, differs, or cannot be repeated; empty where none is stale.

    Raises:
        UserError: code or recipe are not committed, or a run failed.
    """
    origin.require_commit(recipe)
    kept = verdicts.load_verdicts(recipe)
    stale = [c for c in recipe.claims if c.scale == scale and _has_changed_code(recipe, c, kept)]
    if not stale:
        return {}
    repeated = Reproduction(recipe, scale, subset=stale, seeds=1)
    repeated.run(report)
    earlier: dict[str, dict[str, Any]] = {}  # commit -> its verdicts, made here
    outcome = {}
    for claim, verdict in zip(stale, repeated.verdicts, strict=True):
        record = kept["verdicts"][claim.identity]
        expected = record
        if rerun_old:
            at = record.get("confirmed", record)["commit"]
            if at not in earlier:
                earlier[at] = rerun_commit(at, recipe, scale)
            expected = earlier[at][claim.identity]
        outcome[claim.say] = _compare_first_values(claim, expected, asdict(verdict))
        if outcome[claim.say] == CONFIRMED:
            record["confirmed"] = {
                "date": time.strftime("%Y-%m-%d"),
                **({"rerun": at} if rerun_old else {}),
                **repeated.origin(claim).as_dict(),
            }
    write_json(verdicts.path_of(recipe), kept)
    return outcome


def rerun_commit(at: str, recipe: Recipe, scale: str) -> dict[str, Any]:
    """Return the verdicts on the first seed, by identity of the claim, that a commit gives on this machine.

    Raises:
        UserError: the commit cannot be checked out, or its code does not run here.
    """
    words = ["reproduce", recipe.name, "--scale", scale, "--seeds", "1", "--json"]
    with _check_out(at) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "ftcli", *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    try:
        return dict(json.loads(done.stdout)["verdicts"])
    except (ValueError, KeyError) as error:
        raise UserError(
            f"the code of commit {at[:9]} does not run here: it ended with status {done.returncode}.",
            where="--rerun-old",
            fix="see its message above; or judge the claims again",
            code=FAILED,
        ) from error


@contextmanager
def _check_out(at: str) -> Iterator[Path]:
    """Provide a temporary folder with the files of a commit."""
    with tempfile.TemporaryDirectory(prefix="ftcli-commit-") as parent:
        folder = Path(parent) / at[:9]
        try:
            origin.run_git("worktree", "add", "--detach", str(folder), at)
        except (origin.HistoryUnavailable, origin.CommitNotFound) as error:
            raise UserError(
                f"commit {at[:9]} cannot be checked out: {error}", "--rerun-old"
            ) from error
        try:
            yield folder
        finally:
            origin.run_git("worktree", "remove", "--force", str(folder))


def _has_changed_code(recipe: Recipe, claim: Claim, kept: dict[str, Any]) -> bool:
    record = verdicts.find_verdict(claim, kept)
    chosen = tuning.load_choices(recipe, claim.scale)
    why = origin.explain_staleness(recipe, claim, record, chosen) if record else None
    return why is not None and why.startswith(origin.CHANGED)


def _compare_first_values(claim: Claim, record: dict[str, Any], repeated: dict[str, Any]) -> str:
    """Compare the values of the first seed; an order of variants stores none by seed."""
    if record["verdict"] == NOT_HERE and repeated["verdict"] == NOT_HERE:
        return CONFIRMED
    if claim.ranks or not record.get("values") or not repeated["values"]:
        return UNKNOWN
    return CONFIRMED if record["values"][0] == repeated["values"][0] else DIFFERS
