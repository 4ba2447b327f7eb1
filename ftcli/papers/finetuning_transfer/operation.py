"""`ftcli delta transfer`: the change of one base added to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftcli.deltas.options import Base, Force, Source, To
from ftcli.deltas.report import Report

Target = Annotated[str, typer.Option(help="The base to which the change is added.")]
Scale = Annotated[float, typer.Option(help="Factor of the change.")]


def transfer(
    source: Source, target: Target, to: To, base: Base = None, scale: Scale = 1.0,
    force: Force = False,
) -> Report:  # fmt: skip
    """Add the change of one base to another (finetuning transfer, arXiv 2503.20110)."""
    from ftcli.deltas import source as sources
    from ftcli.deltas.artefact import Artefact
    from ftcli.deltas.publish import Result, write_result
    from ftcli.papers.finetuning_transfer.transfer import find_config_changes, transfer_delta

    opened, target_model = sources.Source(source, base), Artefact.open(target)
    delta, run = opened.delta, opened.run
    tensors = transfer_delta(delta, target_model, scale)
    tokenizer = delta.source.tokenizer if delta.source is not None else []
    files: tuple[list[Path], ...]
    if delta.kind == "adapter":
        files = (target_model.tokenizer, opened.files)
        config = {"base_model_name_or_path": str(target_model.folder)}
    else:
        files = (target_model.small_files, tokenizer)
        config = find_config_changes(tensors, target_model)
        run = None if config else run  # the run's base has no rows for new tokens
    record = {
        "history": [*delta.history, f"{scale:g} times added to {target}"],
        "base": target_model.fingerprint,
    }
    result = Result(delta.kind, tensors, files, run, target, config, record)
    size = write_result(result, to, force)["bytes"]
    return Report(to, size, {"tensors": len(delta)}, opened.next_command(to))
