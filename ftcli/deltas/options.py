"""Arguments and options that the commands of `ftcli delta` share."""

from __future__ import annotations

from typing import Annotated

import typer

Source = Annotated[
    str, typer.Argument(help="A run, a model or adapter folder, or a delta saved before.")
]
To = Annotated[str, typer.Option(help="Folder to write.")]
Base = Annotated[
    str | None, typer.Option(help="What it was trained from, where the source does not say.")
]
Product = Annotated[
    bool, typer.Option("--product", help="Of a LoRA: the change B A in place of the factors.")
]
Metric = Annotated[str, typer.Option(help="Held-out score to compare by: eval.loss, eval.bleu ...")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier call has written.")]
