"""`ftcli resume`: go on where a run stopped."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Train"


def resume(
    run: Annotated[str, typer.Argument(help="A run directory, or one of a job with stages.")],
    allow: Annotated[
        list[str] | None, typer.Option(help="A key that may have changed, 'data' or 'model'.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="last, best or step-000400.")] = "last",
) -> int:
    """Continue at the exact batch; refuses changed data or config."""
    from ftcli.cli.outcome import show
    from ftcli.pipelines import stages, table
    from ftcli.run.train import resume as go_on

    if stages.is_parent(run):
        return table.show(stages.go_on(run, allow or [], checkpoint))
    return show(go_on(run, allow or [], checkpoint))
