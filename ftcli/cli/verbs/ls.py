"""`ftcli ls`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Inspect"


def ls(
    kind: Annotated[
        str | None,
        typer.Argument(help="jobs, recipes, runs, or a group: methods, models, data ..."),
    ] = None,
    needs: Annotated[str | None, typer.Option(help="Recipes by measured memory: '<2GB'.")] = None,
    verdict: Annotated[
        str | None, typer.Option(help="Recipes with such a verdict: fails, none ...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Jobs, recipes, options of a group, or runs, with a line about each."""
    from ftcli.config import listing
    from ftcli.core.console import console, emit
    from ftcli.reproduce.listing import filter_recipes

    filters = {"needs": needs, "verdict": verdict}
    if kind is None:
        counts = {name: len(listing.list_entries(name)) for name in sorted(listing.list_kinds())}
        rows = [(name, f"{count}", f"ftcli ls {name}") for name, count in counts.items()]
    else:
        entries = filter_recipes(kind, listing.list_entries(kind), **filters)
        rows = [(entry.name, entry.about) for entry in entries]  # type: ignore[misc]

    def render() -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        for row in rows:
            table.add_row(*[Text(cell) for cell in row])
        console().print(table if rows else "none yet")

    emit(counts if kind is None else [entry.as_dict() for entry in entries], as_json, render)
