"""`ftcli init`: a first job."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

GROUP = "Train"


def init(
    model: Annotated[
        str | None, typer.Option(help="Of `ftcli ls models`, a hub id or a folder.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Of `ftcli ls data`, a file, folder or hub id.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Of `ftcli ls methods`.")] = None,
    output: Annotated[str, typer.Option(help="The file to write.")] = "job.yaml",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a commented job with settings that fit this machine; asks what is not given."""
    from ftcli.core.console import console, emit
    from ftcli.jobs import starter
    from ftcli.jobs.machine_settings import detect_machine

    ask = sys.stdin.isatty() and not as_json
    answers = {"model": model, "data": data, "method": method}
    for name, usual in starter.DEFAULTS.items():
        if answers[name] is None:
            answers[name] = typer.prompt(name, default=usual) if ask else usual
    machine = detect_machine()
    path = starter.write_job(**answers, output=output, machine=machine, force=force)  # type: ignore[arg-type]
    emit(
        {"file": str(path), "machine": machine.__dict__, **answers},
        as_json,
        lambda: console().print(
            f"{path} for {machine.name}; next: ftcli check {path}", markup=False
        ),
    )
