"""`ftcli eval`: judge a trained run, or any model by a job's data."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "After training"


def eval(
    path: Annotated[str, typer.Argument(help="A run directory, or a model folder with --config.")],
    tasks: Annotated[str, typer.Option(help="Which evaluators, by comma; all when left out.")] = "",
    split: Annotated[str | None, typer.Option(help="Judge this split instead.")] = None,
    config: Annotated[
        str | None, typer.Option(help="A job's YAML, whose data judge a bare model.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="last, best or step-000400.")] = "last",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Loss, perplexity and task scores; kept as RUN/eval/<task>.json."""
    from ftcli.core.console import console, emit
    from ftcli.jobs.evaluate import evaluate_path

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    scores = evaluate_path(path, names, split, config, checkpoint)

    def render() -> None:
        from rich.table import Table

        table = Table("task", "score", "value", box=None, pad_edge=False)
        for task, values in scores.items():
            for name, value in values.items():
                table.add_row(task, name, f"{value:.4g}")
        console().print(table)

    emit(scores, as_json, render)
