"""`ftcli prepare`: tokenise now, train later."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Train"
COLUMNS = ("rows", "skipped", "documents", "tokens", "supervised", "mean_length", "max_length")


def prepare(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged job.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, group=option, +new=1, ~drop ...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tokenise every split into the cache; a preparation that was killed goes on where it was."""
    from ftcli.cli.job_data import open_data
    from ftcli.core.console import console, emit
    from ftcli.data.progress import PreparationDisplay
    from ftcli.data.statistics import compute_statistics

    figures_by_split = {}
    with open_data(job, overrides or []) as (data, tokenizer), PreparationDisplay() as display:
        for split in data.splits:
            tokenized = data.prepare(split, tokenizer, display)
            figures_by_split[split] = {
                "folders": [str(folder) for folder in tokenized.folders],
                **compute_statistics(tokenized),
            }

    def render() -> None:
        from rich.table import Table

        table = Table("split", *[name.replace("_", " ") for name in COLUMNS], box=None)
        for split, figures in figures_by_split.items():
            table.add_row(split, *[f"{figures[name]:,}" for name in COLUMNS])
        console().print(table)
        for split, figures in figures_by_split.items():
            for folder in figures["folders"]:
                console().print(f"{split}: {folder}", style="dim")

    emit(figures_by_split, as_json, render)
