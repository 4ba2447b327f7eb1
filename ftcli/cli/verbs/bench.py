"""`ftcli bench`: how fast a job trains here."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Inspect"


def bench(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged job.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, group=option, +new=1, ~drop ...")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="plain: a transformers + peft loop on the same rows.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of a round; the first 3 warm up.", min=1)] = 12,
    rounds: Annotated[int, typer.Option(help="Medians are taken over these.", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tokens a second, peak memory and time to the first step of a job, by a fixed protocol.

    Trains a few steps several times and keeps nothing; with --against in turn with another loop.
    """
    from ftcli.cli.bench_table import format_bench
    from ftcli.config import compose, validate_and_convert
    from ftcli.core.console import console, emit
    from ftcli.core.errors import UserError

    if against not in (None, "plain"):
        raise UserError(f"{against}: no such loop.", where="--against", fix="--against plain")
    composed = compose(job, overrides or [])
    validate_and_convert(composed)
    if composed.config.get("stages"):
        raise UserError("the job has stages.", where=job, fix="measure the job of one stage")
    from ftcli.jobs.bench import bench as measure

    result = measure(composed.config, steps, rounds, against)
    emit(result, as_json, lambda: console().print(format_bench(result), markup=False))
