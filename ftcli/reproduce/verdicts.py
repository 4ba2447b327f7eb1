"""Stored verdicts of a recipe, `verdicts.json`.

Each is stored under the identity of its claim (`Claim.identity`): another wording is the same claim,
another bound is another claim. It records its origin (`ftcli.reproduce.origin`) and every look at its
figure. The verdict of a claim that was removed from the recipe stays in the file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.config.recipe import Claim, Recipe, is_exact_measure
from ftcli.core.atomic import write_json

if TYPE_CHECKING:
    from ftcli.reproduce.reproduction import Reproduction

FILE = "verdicts.json"
#: Fields by which two looks differ: seeds, settings, and identity, which includes the bound.
STATE = ("seeds", "settings", "identity")


def as_dict(reproduction: Reproduction) -> dict[str, Any]:
    """Return a reproduction as plain data."""
    records = {
        claim.identity: build_record(reproduction, claim, index)
        for index, claim in enumerate(reproduction.claims)
    }
    return {"paper": reproduction.recipe.name, "scale": reproduction.scale, "verdicts": records} | {
        "variants": collect_variants(reproduction)
    }


def build_record(reproduction: Reproduction, claim: Claim, index: int) -> dict[str, Any]:
    """Return the stored record of the verdict on a claim."""
    verdict = reproduction.verdicts[index].as_dict()
    seeds = reproduction.seeds_of(claim)
    return {
        "say": claim.say,
        "figure": claim.figure,
        **verdict,
        **({"seeds": seeds, "look": reproduction.count_look(claim)} if seeds else {}),
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        **reproduction.origin(claim).as_dict(),
    }


def collect_variants(reproduction: Reproduction) -> dict[str, Any]:
    """Return date, machine, seeds and figures of all variants; empty where there were no runs."""
    from ftcli.reproduce.figures import build_table

    if reproduction.experiment is None:
        return {}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        "seeds": reproduction.experiment.seeds,
        "figures": build_table(reproduction.experiment),
    }


def describe_machine() -> str:
    """Return processor and GPUs of this machine in one line."""
    from ftcli.run.record import environment

    machine = environment()
    parts = [f"{machine['cores']} cores of {machine['processor']}", f"{machine['threads']} threads"]
    return ", ".join([*parts, *machine["gpus"]])


def path_of(recipe: Recipe) -> Path:
    """Return the file of a recipe's verdicts."""
    return recipe.get_path(FILE)


def load_verdicts(recipe: Recipe) -> dict[str, Any]:
    """Return `verdicts` (identity -> record) and `variants` (scale -> figures); empty before the first."""
    path = path_of(recipe)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"verdicts": {}, "variants": {}} | kept


def find_verdict(claim: Claim, kept: dict[str, Any]) -> dict[str, Any] | None:
    """Return the stored record of a claim; None before it was judged."""
    record: dict[str, Any] | None = kept["verdicts"].get(claim.identity)
    return record


def find_withdrawn(recipe: Recipe, kept: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the stored verdicts whose claim was removed from the recipe or has another bound now."""
    claimed = {claim.identity for claim in recipe.claims}
    return {name: record for name, record in kept["verdicts"].items() if name not in claimed}


def sort_looks(figure: str, kept: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return all looks at a figure, for any bound, in the order in which they were taken."""
    every_look = [look for record in kept["verdicts"].values() for look in record.get("looks", [])]
    return iter(sorted((record for record in every_look if record["figure"] == figure), key=_date))


def count_look(claim: Claim, seeds: list[int], settings: str, kept: dict[str, Any]) -> int:
    """Return the number, from 1, of a look at the figure with these seeds and settings.

    A repetition with equal seeds, settings and bound, as after a change of the code, is the same look.
    """
    states = [_state(look) for look in sort_looks(claim.figure, kept)]
    states = list(dict.fromkeys(states))
    now = _state({"seeds": seeds, "settings": settings, "identity": claim.identity})
    return 1 + (states.index(now) if now in states else len(states))


def _state(look: dict[str, Any]) -> str:
    return json.dumps([look[key] for key in STATE])


def _date(look: dict[str, Any]) -> int:
    return int(look["order"])


def store_verdicts(reproduction: Reproduction) -> Path:
    """Store the verdicts, keeping those of other claims; returns the file.

    Raises:
        UserError: code or recipe are not committed.
    """
    from ftcli.reproduce.origin import require_commit

    recipe = reproduction.recipe
    require_commit(recipe)
    kept, new = load_verdicts(recipe), as_dict(reproduction)
    for claim in reproduction.claims:
        record = new["verdicts"][claim.identity]
        before = kept["verdicts"].get(claim.identity, {}).get("looks", [])
        if "seeds" in record and not is_exact_measure(claim.measure):
            record["looks"] = [
                *before,
                _build_look(claim, record, 1 + sum(1 for _ in _all_looks(kept))),
            ]
        kept["verdicts"][claim.identity] = record
    order = [claim.identity for claim in recipe.claims if claim.identity in kept["verdicts"]]
    gone = [name for name in kept["verdicts"] if name not in order]
    kept["verdicts"] = {name: kept["verdicts"][name] for name in [*order, *gone]}
    if new["variants"] and reproduction.only is None:
        kept["variants"][reproduction.scale] = new["variants"]
    path = path_of(recipe)
    write_json(path, kept)
    return path


def _build_look(claim: Claim, record: dict[str, Any], order: int) -> dict[str, Any]:
    keys = ("figure", "seeds", "settings", "look", "verdict", "mean", "low", "high", "date")
    kept = {key: record[key] for key in (*keys, "commit", "code") if key in record}
    return {"order": order, "identity": claim.identity, **kept}


def _all_looks(kept: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for record in kept["verdicts"].values():
        yield from record.get("looks", [])
