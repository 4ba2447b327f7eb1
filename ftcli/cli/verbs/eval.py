"""`ftcli eval`: judge a trained run, or any model by a job's data, or by tasks of lm-eval."""

from __future__ import annotations

from typing import Annotated, Any

import typer

GROUP = "After training"


def eval(
    path: Annotated[str, typer.Argument(help="A run, or a model with --config or lm-eval tasks.")],
    tasks: Annotated[
        str,
        typer.Option(help="The run's evaluators and lm-eval's tasks, by comma; else the run's."),
    ] = "",
    split: Annotated[str | None, typer.Option(help="Judge this split instead.")] = None,
    config: Annotated[
        str | None, typer.Option(help="A job's YAML, whose data judge a bare model.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="last, best or step-000400.")] = "last",
    task_path: Annotated[
        str | None, typer.Option(help="Of lm-eval: a folder of further tasks (YAML).")
    ] = None,
    trust_tasks: Annotated[
        bool, typer.Option("--trust-tasks", help="Tasks of --task-path may run Python code.")
    ] = False,
    shots: Annotated[
        int | None, typer.Option(help="Of lm-eval: examples before a question.", min=0)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Of lm-eval: rows of a task.", min=1)] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Of lm-eval: questions are turns of a chat.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Of lm-eval: rows at a time.", min=1)] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Loss, perplexity, task scores, and benchmarks by lm-eval; kept as RUN/eval/<task>.json."""
    from pathlib import Path

    from ftcli.core.console import emit

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    own = _list_evaluators(path, config)
    foreign = [name for name in names if name not in own]
    scores: dict[str, dict[str, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    if foreign:
        from ftcli.jobs.harness import HarnessOptions, evaluate_tasks, find_tasks

        folder = Path(task_path).expanduser() if task_path else None
        options = HarnessOptions(folder, trust_tasks, shots, limit, chat_template, batch_size)
        index = find_tasks(
            foreign, options, own
        )  # a misspelt name is said before anything is measured
    if len(foreign) < len(names) or not names:
        from ftcli.jobs.evaluate import evaluate_path

        mine = [name for name in names if name in own]
        scores |= evaluate_path(path, mine, split, config, checkpoint)
    if foreign:
        for found in evaluate_tasks(path, foreign, index, options, checkpoint):
            scores[found.task], errors[found.task] = found.scores, found.errors
    emit(scores, as_json, lambda: _show(scores, errors))


def _list_evaluators(path: str, config: str | None) -> list[str]:
    """The names of the evaluators of a run, or of the job that judges a bare model."""
    from pathlib import Path

    from ftcli.config import compose, load

    file = Path(path) / "config.yaml"
    if file.is_file():
        found = load(file).config
    else:
        found = compose(config).config if config else {}
    return [name for name, node in (found.get("eval") or {}).items() if node]


def _show(scores: dict[str, dict[str, float]], errors: dict[str, dict[str, float]]) -> None:
    from rich.table import Table

    from ftcli.core.console import console

    table = Table("task", "score", "value", *["±"] * bool(errors), box=None, pad_edge=False)
    for task, values in scores.items():
        for name, value in values.items():
            error: Any = errors.get(task, {}).get(name)
            spread = [f"{error:.2g}" if error is not None else ""] * bool(errors)
            table.add_row(task, name, f"{value:.4g}", *spread)
    console().print(table, markup=False)
