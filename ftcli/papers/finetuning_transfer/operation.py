"""`ftcli delta transfer`: the change of one base added to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftcli.deltas.options import Base, Force, Source, To
from ftcli.deltas.report import Report

Target = Annotated[str, typer.Option(help="The base that gets the change.")]
Scale = Annotated[float, typer.Option(help="Times the change.")]


def transfer(
    source: Source, target: Target, to: To, base: Base = None, scale: Scale = 1.0,
    force: Force = False,
) -> Report:  # fmt: skip
    """Add a change to another base (finetuning transfer, arXiv 2503.20110)."""
    from ftcli.deltas import source as sources
    from ftcli.deltas.artefact import Artefact
    from ftcli.deltas.publish import Result, write_result
    from ftcli.papers.finetuning_transfer.transfer import changed_config, transferred

    opened, there = sources.Source(source, base), Artefact.open(target)
    delta, run = opened.delta, opened.run
    tensors = transferred(delta, there, scale)
    tokenizer = delta.source.tokenizer if delta.source is not None else []
    files: tuple[list[Path], ...]
    if delta.kind == "adapter":
        files, config = (
            (there.tokenizer, opened.files),
            {"base_model_name_or_path": str(there.folder)},
        )
    else:
        files, config = (there.others, tokenizer), changed_config(tensors, there)
        run = None if config else run  # a run's base has no rows for new tokens
    record = {
        "said": [*delta.history, f"{scale:g} times added to {target}"],
        "base": there.fingerprint,
    }
    result = Result(delta.kind, tensors, files, run, target, config, record)
    size = write_result(result, to, force)["bytes"]
    return Report(to, size, {"tensors": len(delta)}, opened.next_command(to))
