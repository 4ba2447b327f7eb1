"""Verdicts kept beside a recipe, `<paper>.verdicts.json`: what was found, when, on what machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli import __version__
from ftcli.reproduce.recipe import Claim, Recipe
from ftcli.run.atomic import write_json

if TYPE_CHECKING:
    from ftcli.reproduce.reproduction import Reproduction

SUFFIX = ".verdicts.json"


def as_dict(made: Reproduction) -> dict[str, Any]:
    """A reproduction as plain data."""
    from ftcli.reproduce.figures import table

    claims = [
        {"say": claim.say, "measure": claim.measure, "paper": claim.paper, **verdict.as_dict()}
        for claim, verdict in zip(made.claims, made.verdicts, strict=True)
    ]
    found: dict[str, Any] = {
        "paper": made.recipe.name,
        "scale": made.scale,
        "date": time.strftime("%Y-%m-%d"),
        "ftcli": __version__,
        "machine": machine(),
        "claims": claims,
    }
    if made.experiment:
        found |= {"seeds": made.experiment.seeds, "figures": table(made.experiment)}
    return found


def machine() -> str:
    """Processor and GPUs in a line."""
    from ftcli.run.record import environment

    here = environment()
    parts = [f"{here['cores']} cores of {here['processor']}", f"{here['threads']} threads"]
    return ", ".join([*parts, *here["gpus"]])


def path_of(recipe: Recipe) -> Path:
    """Where a recipe's verdicts are kept."""
    return recipe.path.with_name(f"{recipe.name}{SUFFIX}")


def stored(recipe: Recipe) -> dict[str, Any]:
    """Scale -> what `as_dict` gave; empty before anything was stored."""
    path = path_of(recipe)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def verdict_of(recipe: Recipe, claim: Claim, kept: dict[str, Any]) -> dict[str, Any] | None:
    """What was stored of a claim, found by its words; None before it was judged."""
    claims = kept.get(claim.scale, {}).get("claims", [])
    return next((found for found in claims if found["say"] == claim.say), None)


def store(made: Reproduction) -> Path:
    """Keep the verdicts; claims that were not judged this time keep theirs. Returns the file."""
    kept, new = stored(made.recipe), as_dict(made)
    judged = {claim["say"]: claim for claim in new["claims"]}
    before = {claim["say"]: claim for claim in kept.get(made.scale, {}).get("claims", [])}
    known = [c.say for c in made.recipe.claims if c.scale == made.scale]
    new["claims"] = [{**before, **judged}[say] for say in known if say in {**before, **judged}]
    path = path_of(made.recipe)
    write_json(path, kept | {made.scale: new})
    return path
