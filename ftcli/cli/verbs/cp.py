"""`ftcli cp`: a packaged file as a start of one's own."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Inspect"


def cp(
    name: Annotated[str, typer.Argument(help="A job, recipe or option: qlora_llama, method/lora.")],
    dest: Annotated[str, typer.Argument(help="A file or a folder.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy a job, recipe or option to edit it."""
    from ftcli.config.listing import copy_config
    from ftcli.config.paths import format_path
    from ftcli.core.console import console, emit

    source, target = copy_config(name, dest, force)
    emit(
        {"from": str(source), "to": str(target)},
        as_json,
        lambda: console().print(f"{format_path(source)} → {target}", markup=False),
    )
