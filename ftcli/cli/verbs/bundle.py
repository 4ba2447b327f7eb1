"""`ftcli bundle`: a run as one archive that another machine repeats."""

from __future__ import annotations

from typing import Annotated, Any

import typer

GROUP = "After training"
ARCHIVES = (".tar.gz", ".tgz")  # ends of a path that is meant as a bundle
SHOWN = 20  # local files that are listed


def bundle(
    run: Annotated[str, typer.Argument(help="A run to pack, or a bundle to unpack.")],
    to: Annotated[
        str | None, typer.Option(help="File to write, or new folder to unpack into.")
    ] = None,
    data: Annotated[
        bool, typer.Option("--data/--no-data", help="Pack local data files, or only name them.")
    ] = True,
    base: Annotated[
        bool, typer.Option("--with-base", help="Pack the base model, where it is a local folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Pack what repeats a run on another machine, or unpack it there.

    Configuration, package versions, commit and changes of the code, seed, data, and hashes of all of it.
    """
    from pathlib import Path

    from ftcli.core.console import emit
    from ftcli.core.errors import UserError

    if Path(run).is_file():
        from ftcli.jobs.unbundle import unpack_bundle

        done = unpack_bundle(run, to or Path(run).name.split(".")[0])
        emit(done.as_dict(), as_json, lambda: _show(done.notes, f"repeat  {done.command}"))
        return
    if run.endswith(ARCHIVES) and not Path(run).exists():
        raise UserError(f"{run}: no such file.", fix="check the path of the bundle")
    from ftcli.jobs.bundle import bundle_run

    packed = bundle_run(run, to, data, base)
    emit(packed.as_dict(), as_json, lambda: _show_packed(packed))


def _show_packed(packed: Any) -> None:
    from ftcli.core.console import console
    from ftcli.core.disk import format_bytes
    from ftcli.core.escaping import escape_controls

    for name, file in list(packed.local.items())[:SHOWN]:
        console().print(f"packs   {name}  from {escape_controls(file)}", markup=False)
    if len(packed.local) > SHOWN:
        console().print(f"packs   {len(packed.local) - SHOWN:,} more files from there")
    size = f"{len(packed.files)} files, {format_bytes(packed.bytes)}"
    _show(
        packed.notes,
        f"packed  {packed.path} ({size})\nunpack  ftcli bundle {packed.path} --to FOLDER",
    )


def _show(notes: list[str], text: str) -> None:
    from ftcli.core.console import console
    from ftcli.core.escaping import escape_controls

    for note in notes:
        console().print(f"note    {escape_controls(note)}", style="yellow", markup=False)
    console().print(text, markup=False)
