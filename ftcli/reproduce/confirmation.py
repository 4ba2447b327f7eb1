"""Repeat the first seed of judged runs with changed code, and compare figures to the bit.

Most changes of code (a new option, a renamed function) compute what the code before them computed. A
verdict whose figures of the first seed come out equal to the bit is confirmed: it names the commit
that made it and the one that repeated it. Where a figure differs, the verdict stays stale.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ftcli.config.recipe import Claim, Recipe
from ftcli.core.atomic import write_json
from ftcli.reproduce import origin, tuning, verdicts
from ftcli.reproduce.experiment import Progress
from ftcli.reproduce.judge import NOT_HERE
from ftcli.reproduce.reproduction import Reproduction

CONFIRMED, DIFFERS, UNKNOWN = "confirmed", "differs", "cannot be repeated"


def confirm_verdicts(
    recipe: Recipe, scale: str, report: Callable[[Progress], None]
) -> dict[str, str]:
    """Repeat what the stale verdicts of a scale rest on, and store which of them are confirmed.

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
    outcome = {}
    for claim, verdict in zip(stale, repeated.verdicts, strict=True):
        record = kept["verdicts"][claim.identity]
        outcome[claim.say] = _compare_first_values(claim, record, asdict(verdict))
        if outcome[claim.say] == CONFIRMED:
            record["confirmed"] = {
                "date": time.strftime("%Y-%m-%d"),
                **repeated.origin(claim).as_dict(),
            }
    write_json(verdicts.path_of(recipe), kept)
    return outcome


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
