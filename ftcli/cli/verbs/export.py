"""`ftcli export`: a trained run in the format of other programs."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "After training"


def export(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    to: Annotated[str, typer.Option(help="hf (safetensors for transformers, vLLM, ...) or gguf.")],
    output: Annotated[
        str | None, typer.Option(help="Where; RUN/export/<format> if absent.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="last, best or step-000400.")] = "last",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Of gguf: base and LoRA as two files, not merged.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge, check, and write the model for other programs."""
    from ftcli.core.console import console, emit
    from ftcli.serving.export import export_run

    report = export_run(run, to, output, checkpoint=checkpoint, adapter=adapter)
    emit(report.as_dict(), as_json, lambda: console().print(report.sentence()))
