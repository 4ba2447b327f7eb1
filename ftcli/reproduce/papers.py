"""docs/papers.md from the recipes and their stored verdicts: `python -m ftcli.reproduce.papers`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.config import paths
from ftcli.reproduce import reading
from ftcli.reproduce.display import number, said, summary, wanted
from ftcli.reproduce.recipe import Claim, Recipe
from ftcli.reproduce.verdicts import stored, verdict_of
from ftcli.run.atomic import write_text
from ftcli.run.report import table

NEVER = "not judged yet"
HEAD = """# Papers

Written by `python -m ftcli.reproduce.papers` from the recipes and the verdicts that
`ftcli reproduce <paper> --store` left beside them; edit those, not this page. How claims are judged:
[reproduce.md](reproduce.md). (?) marks a figure that was not checked against the paper."""


def recipes() -> list[Recipe]:
    """Every packaged recipe that claims something, by family and name."""
    found = [file for file in paths.recipes().values() if reading.is_recipe(file)]
    return sorted((reading.read(file) for file in found), key=lambda r: (r.family, r.name))


def page() -> str:
    """The whole page."""
    found = recipes()
    rows = [
        (f"[{r.paper.title}](#{r.name})", r.paper.arxiv, r.paper.year, r.family, overall(r))
        for r in found
    ]
    parts = [HEAD, table(("paper", "arXiv", "year", "family", "verdicts"), rows)]
    return "\n\n".join([*parts, *(part for r in found for part in _of_recipe(r))]) + "\n"


def overall(recipe: Recipe) -> str:
    """`9 hold, 1 fails`, over all scales."""
    kept = stored(recipe)
    found = [verdict_of(recipe, claim, kept) for claim in recipe.claims]
    judged = [one["verdict"] for one in found if one]
    missing = len(found) - len(judged)
    parts = [summary(judged)] * bool(judged) + [f"{missing} {NEVER}"] * bool(missing)
    return ", ".join(parts)


def _of_recipe(recipe: Recipe) -> Iterator[str]:
    kept = stored(recipe)
    yield f"## {recipe.name}"
    yield f"{recipe.paper.title}, arXiv {recipe.paper.arxiv}. `ftcli reproduce {recipe.name}`"
    for scale, one in kept.items():
        seeds = f"{one['seeds']} seeds, " if "seeds" in one else ""
        yield f"{scale} scale: {seeds}{one['date']}, ftcli {one['ftcli']}, {one['machine']}."
    rows = [_row(recipe, i, claim, kept) for i, claim in enumerate(recipe.claims, start=1)]
    yield table(("", "claim", "scale", "paper says", "we measured", "verdict"), rows)
    notes = [f"{i}: {c.note}" for i, c in enumerate(recipe.claims, start=1) if c.note]
    yield from notes


def _row(recipe: Recipe, index: int, claim: Claim, kept: dict[str, Any]) -> tuple[str, ...]:
    found = verdict_of(recipe, claim, kept)
    verdict, measured = NEVER, "–"
    if found:
        verdict = (
            found["verdict"] if found["why"] == "exact" else f"{found['verdict']}: {found['why']}"
        )
        measured = _measured(claim, found)
    return str(index), claim.say, claim.scale, said(claim), measured, verdict


def _measured(claim: Claim, found: dict[str, Any]) -> str:
    if "mean" not in found:
        return "–"
    low, high = found.get("low"), found.get("high")
    reach = ""
    if low is not None and high is not None and low != high:
        reach = f" [{number(low)}, {number(high)}]"
    return f"{number(found['mean'])}{reach}, {wanted(claim)}"


def write() -> Path:
    """Write docs/papers.md of the repository; returns the file."""
    path = paths.recipes_dir().parent / "docs" / "papers.md"
    write_text(path, page())
    return path


if __name__ == "__main__":
    print(write())
