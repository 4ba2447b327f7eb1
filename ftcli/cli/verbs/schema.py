"""`ftcli schema`: what keys there are."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Inspect"


def schema(
    key: Annotated[
        str | None,
        typer.Argument(help="A key (optimizer.lr), a group (method), method=vera, eval.loss."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """JSON schema of a job for editors; or a key's type, default, meaning and who uses it.

    In VS Code: ftcli schema > job.schema.json, then `# yaml-language-server: $schema=...`
    """
    import json

    from ftcli.config.schema import build_job_schema, describe_keys
    from ftcli.core.console import console, emit

    if key is None:
        typer.echo(json.dumps(build_job_schema(), indent=2, default=str, ensure_ascii=False))
        return
    keys = describe_keys(key)

    def render() -> None:
        from rich.table import Table
        from rich.text import Text

        if len(keys) == 1:
            entry = keys[0]
            used = f"\nused by  {', '.join(entry.options)}" if entry.options else ""
            return typer.echo(f"{entry.key}\ntype     {entry.type}\ndefault  {entry.default}\n"
                              f"meaning  {entry.help or '–'}{used}")  # fmt: skip
        table = Table("key", "type", "default", "meaning", box=None, pad_edge=False)
        owner = keys[0].key.rpartition(".")[0]
        for entry in keys:
            if (place := entry.key.rpartition(".")[0]) != owner:  # the next object of a collection
                table.add_row()
                owner = place
            table.add_row(
                *[Text(cell) for cell in (entry.key, entry.type, entry.default, entry.help)]
            )
        console().print(table)

    emit([entry.as_dict() for entry in keys], as_json, render)
