"""Write docs/papers.md from the recipes and their stored verdicts: `python -m ftcli.reproduce.papers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.config import paths
from ftcli.config import recipe_reading as reading
from ftcli.config.recipe import REAL, SMALL, Claim, Recipe
from ftcli.core.atomic import write_text
from ftcli.reproduce import origin, tuning
from ftcli.reproduce.display import (
    NEVER,
    format_kind,
    format_number,
    format_paper_figure,
    format_relation,
    summarise_verdicts,
)
from ftcli.reproduce.verdicts import find_verdict, find_withdrawn, load_verdicts
from ftcli.run.report import table

HEAD = """# Papers

Written by `python -m ftcli.reproduce.papers` from the recipes and the verdicts that
`ftcli reproduce <paper> --store` left beside them; edit those, not this page. How claims are judged:
[reproduce.md](reproduce.md). (?) marks a figure that was not checked against the paper.

"Central" are the one to three statements that a paper stands on; they are counted once more among their
kind. "Exact" are identities and counts, "statistical" what chance moves, "trivial" what could hardly be
otherwise. The column "made by" names the commit whose code made a verdict. "Earlier rules" are those before
looks were counted, settings searched alike, and code recorded: their intervals are of 95 % however
often seeds were added. STALE marks a verdict whose code or settings have changed since."""


def list_recipes() -> list[Recipe]:
    """Return every packaged recipe with claims, sorted by name."""
    files = [file for file in paths.list_recipes().values() if reading.is_recipe(file)]
    return sorted((reading.read_recipe(file) for file in files), key=lambda r: r.name)


def render_page() -> str:
    """Return the text of the page."""
    every = list_recipes()
    rows = [
        (f"[{r.paper.title}](#{r.name})", r.paper.arxiv, r.paper.year, summarise_paper(r))
        for r in every
    ]
    parts = [HEAD, table(("paper", "arXiv", "year", "verdicts"), rows)]
    return "\n\n".join([*parts, *(part for r in every for part in _render_recipe(r))]) + "\n"


def summarise_paper(recipe: Recipe) -> str:
    """Return counts such as `central 2/3 hold, exact 9/9; 1 fails` over all scales of a recipe."""
    kept = load_verdicts(recipe)
    records = [(claim, find_verdict(claim, kept)) for claim in recipe.claims]
    return summarise_verdicts(
        (claim, record["verdict"] if record else None) for claim, record in records
    )


def find_stale(recipe: Recipe) -> Iterator[tuple[Claim, str]]:
    """Yield claims whose verdict does not belong to the present code and settings, with the reason."""
    kept = load_verdicts(recipe)
    for claim in recipe.claims:
        record = find_verdict(claim, kept)
        chosen = tuning.load_choices(recipe, claim.scale)
        if record and (why := origin.explain_staleness(recipe, claim, record, chosen)):
            yield claim, why


def _render_recipe(recipe: Recipe) -> Iterator[str]:
    kept = load_verdicts(recipe)
    yield f"## {recipe.name}"
    yield f"{recipe.paper.title}, arXiv {recipe.paper.arxiv}. `ftcli reproduce {recipe.name}`"
    yield " ".join(_describe_conditions(recipe, kept))
    changed = {claim.identity for claim, _ in find_stale(recipe)}
    rows = [
        _format_row(i, claim, find_verdict(claim, kept), claim.identity in changed)
        for i, claim in enumerate(recipe.claims, start=1)
    ]
    head = ("", "claim", "kind", "scale", "paper says", "we measured", "verdict", "made by")
    yield table(head, rows)
    yield from (f"{i}: {c.note}" for i, c in enumerate(recipe.claims, start=1) if c.note)
    for identity, record in find_withdrawn(recipe, kept).items():
        yield f"Claimed and judged before, no longer claimed: {record['say']} ({identity}): {record['verdict']}."


def _describe_conditions(recipe: Recipe, kept: Mapping[str, Any]) -> Iterator[str]:
    """Yield sentences on machines, dates, seeds, and the search of settings."""
    for scale, runs in kept["variants"].items():
        seeds = ", ".join(map(str, runs["seeds"]))
        yield f"Runs at the {scale} scale: seeds {seeds}, {runs['date']}, {runs['machine']}."
    yield f"Seeds of the first look: {', '.join(map(str, recipe.seeds))}."
    for scale in (SMALL, REAL):
        tune, at = recipe.get_tune(scale), "" if scale == SMALL else f" at the {scale} scale"
        if tune:
            trials = max(len(tune.list_points(variant)) for variant in recipe.list_searched(scale))
            yield f"Settings{at}: {trials} trials a variant" + (
                " are to be made."
                if tuning.find_missing(recipe, scale)
                else f", {tuning.load_search(recipe, scale)['date']}."
            )
        elif recipe.compares_variants(scale):
            yield f"Settings{at} not searched alike."


def _format_row(
    index: int, claim: Claim, record: dict[str, Any] | None, changed: bool
) -> tuple[str, ...]:
    verdict, measured, by = NEVER, "–", "–"
    if record:
        verdict = (
            record["verdict"]
            if record["why"] == "exact"
            else f"{record['verdict']}: {record['why']}"
        )
        measured, by = _format_measured(claim, record), _format_origin(record, changed)
    return (
        str(index),
        claim.say,
        format_kind(claim),
        claim.scale,
        format_paper_figure(claim),
        measured,
        verdict,
        by,
    )


def _format_origin(record: Mapping[str, Any], changed: bool) -> str:
    commit = record["commit"][:9]
    if record.get("rules") == origin.EARLIER:
        return f"earlier rules, commit {commit}"
    if changed:
        return f"STALE, commit {commit}"
    repeated = record.get("confirmed")
    return f"commit {commit}" + (f", repeated at {repeated['commit'][:9]}" if repeated else "")


def _format_measured(claim: Claim, record: dict[str, Any]) -> str:
    if "mean" not in record:
        return "–"
    low, high = record.get("low"), record.get("high")
    reach = ""
    if low is not None and high is not None and low != high:
        reach = f" [{format_number(low)}, {format_number(high)}]"
    return f"{format_number(record['mean'])}{reach}, {format_relation(claim)}"


def write_page() -> Path:
    """Write docs/papers.md of the repository; returns the file."""
    path = paths.recipes_dir().parent / "docs" / "papers.md"
    write_text(path, render_page())
    return path


if __name__ == "__main__":
    print(write_page())
