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
otherwise. What is claimed at several scales stands in one row: `small` is a model of a few million parameters,
`real` a pretrained one (SmolLM2-135M), `paper` the paper's own, planned without weights. In brackets stands the
commit whose code made a verdict. "Earlier rules" are those before
looks were counted, settings searched alike, and code recorded: their intervals are of 95 % however
often seeds were added. STALE marks a verdict whose code or settings have changed since."""
#: Scales in the order of their columns; others follow.
SCALES = (SMALL, REAL, "paper")


def list_recipes() -> list[Recipe]:
    """Return every packaged recipe with claims, sorted by name."""
    files = [file for file in paths.list_recipes().values() if reading.is_recipe(file)]
    return sorted((reading.read_recipe(file) for file in files), key=lambda r: r.name)


def render_page() -> str:
    """Return the text of the page."""
    every = list_recipes()
    rows = [
        (
            f"[{r.paper.title}](#{r.name})",
            r.paper.arxiv,
            r.paper.year,
            *(summarise_paper(r, scale) or "–" for scale in SCALES),
        )
        for r in every
    ]
    parts = [HEAD, table(("paper", "arXiv", "year", *SCALES), rows)]
    return "\n\n".join([*parts, *(part for r in every for part in _render_recipe(r))]) + "\n"


def summarise_paper(recipe: Recipe, scale: str | None = None) -> str:
    """Return counts such as `central 2/3 hold, exact 9/9; 1 fails` over one scale, or all; "" without claims."""
    kept = load_verdicts(recipe)
    claims = [claim for claim in recipe.claims if scale in (None, claim.scale)]
    if not claims:
        return ""
    records = [(claim, find_verdict(claim, kept)) for claim in claims]
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
    scales = _list_scales(recipe)
    cells = {
        c.identity: _format_cell(find_verdict(c, kept), c.identity in changed)
        for c in recipe.claims
    }
    rows = [_format_row(group, scales, cells) for group in _group_statements(recipe)]
    yield table(("", "claim", "kind", "paper says", "must be", *scales), rows)
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


def _list_scales(recipe: Recipe) -> list[str]:
    """Return the scales at which a recipe claims something, in the order of their columns."""
    claimed = dict.fromkeys(claim.scale for claim in recipe.claims)
    return [*(s for s in SCALES if s in claimed), *(s for s in claimed if s not in SCALES)]


def _group_statements(recipe: Recipe) -> list[list[tuple[int, Claim]]]:
    """Return number and claim of what is stated, one list a statement: the same claim at several scales."""
    groups: dict[str, list[tuple[int, Claim]]] = {}
    for number, claim in enumerate(recipe.claims, start=1):
        groups.setdefault(claim.statement, []).append((number, claim))
    return list(groups.values())


def _format_row(
    group: list[tuple[int, Claim]], scales: list[str], cells: Mapping[str, str]
) -> tuple[str, ...]:
    claims = [claim for _, claim in group]
    at = {claim.scale: cells[claim.identity] for claim in claims}
    return (
        ", ".join(str(number) for number, _ in group),
        "; ".join(dict.fromkeys(claim.say for claim in claims)),
        "; ".join(dict.fromkeys(map(format_kind, claims))),
        "; ".join(dict.fromkeys(map(format_paper_figure, claims))),
        format_relation(claims[0]),
        *(at.get(scale, "") for scale in scales),
    )


def _format_cell(record: dict[str, Any] | None, changed: bool) -> str:
    """Return `holds: 0.99 [0.98, 1] (95 % interval of 3 seeds; commit 0ae22cf3c)`."""
    if record is None:
        return NEVER
    figure = _format_measured(record)
    because = [record["why"]] if record["why"] != "exact" else []
    origin_words = "; ".join([*because, _format_origin(record, changed)])
    return f"{record['verdict']}{f': {figure}' if figure else ''} ({origin_words})"


def _format_origin(record: Mapping[str, Any], changed: bool) -> str:
    commit = record["commit"][:9]
    if record.get("rules") == origin.EARLIER:
        return f"earlier rules, commit {commit}"
    if changed:
        return f"STALE, commit {commit}"
    repeated = record.get("confirmed")
    return f"commit {commit}" + (f", repeated at {repeated['commit'][:9]}" if repeated else "")


def _format_measured(record: Mapping[str, Any]) -> str:
    if "mean" not in record:
        return ""
    low, high = record.get("low"), record.get("high")
    if low is None or high is None or low == high:
        return format_number(record["mean"])
    return f"{format_number(record['mean'])} [{format_number(low)}, {format_number(high)}]"


def write_page() -> Path:
    """Write docs/papers.md of the repository; returns the file."""
    path = paths.recipes_dir().parent / "docs" / "papers.md"
    write_text(path, render_page())
    return path


if __name__ == "__main__":
    print(write_page())
