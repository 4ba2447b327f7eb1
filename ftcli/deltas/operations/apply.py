"""`ftcli delta apply`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ftcli.core.errors import UserError
from ftcli.deltas.options import Base, Force, Source, To
from ftcli.deltas.report import Report

if TYPE_CHECKING:
    from ftcli.deltas.source import Source as OpenedSource

Scale = Annotated[float, typer.Option(help="Times the change.")]
Revert = Annotated[
    bool, typer.Option("--revert", help="Take the delta from the finetuned model in --base.")
]


def apply(
    source: Source, to: To, base: Base = None, scale: Scale = 1.0, revert: Revert = False,
    force: Force = False,
) -> Report:  # fmt: skip
    """Write base plus delta: a run, model or adapter as it was before."""
    from ftcli.deltas import source as sources
    from ftcli.deltas.product import strengthen_delta

    opened = sources.Source(source, base)
    if revert:
        return _revert(opened, to, base, force)
    delta = opened.delta if scale == 1 else strengthen_delta(opened.delta, scale)
    return opened.write(delta, to, force)


def _revert(opened: OpenedSource, to: str, base: str | None, force: bool) -> Report:
    """Write the finetuned model in `base` minus the delta."""
    from ftcli.deltas.artefact import Artefact
    from ftcli.deltas.publish import Result, write_result

    delta = opened.delta
    if base is None or delta.kind != "model":
        raise UserError(
            "--revert needs the finetuned model that the delta is subtracted from.",
            "--base",
            "--base FINETUNED, a whole model",
        )
    finetuned = Artefact.open(base)
    record = {"history": [f"{finetuned.folder} minus {opened.path}"], "base": delta.base}
    result = Result(
        "model", delta.revert(finetuned.weights), (finetuned.small_files,), record=record
    )
    size = write_result(result, to, force)["bytes"]
    exact = Artefact.open(to).fingerprint == delta.base
    return Report(to, size, {"the base to the bit": exact}, f"ftcli eval {to} --config JOB")
