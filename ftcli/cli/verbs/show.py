"""`ftcli show`: a job as it is composed."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Inspect"


def show(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged job.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, group=option, +new=1, ~drop ...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The whole configuration, and who set each value: file:line or command line.

    It is valid YAML and runs alone. What is wrong with it is said after it.
    """
    from ftcli.config import compose, validate_and_convert
    from ftcli.config.display import format_job
    from ftcli.core.console import emit
    from ftcli.core.errors import UserError

    composed = compose(job, overrides or [])
    wrong = None
    try:
        validate_and_convert(composed)
    except UserError as error:
        wrong = error
    origins = {key: str(origin) for key, origin in composed.origins.items()}
    emit({"config": composed.config, "origins": origins, "choices": composed.choices}, as_json,
         lambda: typer.echo(format_job(composed)))  # fmt: skip
    if wrong:
        raise wrong
