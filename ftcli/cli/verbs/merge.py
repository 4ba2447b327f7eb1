"""`ftcli merge`: one plain model from a base and what was trained on it."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "After training"


def merge(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    to: Annotated[str, typer.Option(help="Folder to write.")],
    checkpoint: Annotated[str, typer.Option(help="last, best or step-000400.")] = "last",
    tolerance: Annotated[
        float | None, typer.Option(help="Largest difference of a logit; null: by dtype.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge the adapter into its base, check that nothing changed, save for plain transformers."""
    from ftcli.core.console import console, emit
    from ftcli.deltas.merge import merge_run

    report = merge_run(run, to, checkpoint=checkpoint, tolerance=tolerance)
    emit(report.as_dict(), as_json, lambda: console().print(report.sentence()))
