"""`ftcli train`: the main job."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Train"


def train(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged job.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, group=option, +new=1, ~drop ...")
    ] = None,
    trust: Annotated[
        list[str] | None, typer.Option(help="Let _target_ name classes of this module too.")
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", "-p", help="Ranks on this machine, one a GPU.", min=1)
    ] = 1,
) -> int:
    """Compose, check, train, and leave a run directory."""
    from ftcli.cli.outcome import show
    from ftcli.config import compose, validate
    from ftcli.run.launch import launch
    from ftcli.run.train import train as start

    composed = compose(job, overrides or [])
    validate(composed, trust=tuple(trust or ()))
    if composed.config.get("stages"):
        from ftcli.pipelines import stages, table

        return table.show(stages.start(composed, processes))
    return show(launch(composed, processes) if processes > 1 else start(composed))
