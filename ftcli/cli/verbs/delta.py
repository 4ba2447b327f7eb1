"""`ftcli delta`: arithmetic with what finetuning has added."""

from __future__ import annotations

import inspect
import typing
from typing import Annotated, Any

import typer

from ftcli.deltas.operations import Operation, find_operations
from ftcli.deltas.report import Report

GROUP = "After training"
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def delta() -> None:
    """Arithmetic with what finetuning added: compress, prune, scale, mix, move."""


def _with_output(operation: Operation) -> Any:
    """The operation as a command that prints its report, as a table or as JSON."""

    def command(as_json: bool = False, **options: Any) -> None:
        _show_report(operation(**options), as_json)

    hints = typing.get_type_hints(operation, include_extras=True) | {"return": None}
    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(operation).parameters.items()
    ]
    json = inspect.Parameter(
        "as_json", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False, annotation=Json
    )
    command.__signature__ = inspect.Signature([*parameters, json])  # type: ignore[attr-defined]
    command.__annotations__ = hints | {"as_json": Json}
    command.__name__, command.__doc__ = operation.__name__, operation.__doc__
    return command


def _show_report(report: Report, as_json: bool) -> None:
    from ftcli.core.console import console, emit

    def render() -> None:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in report.figures.items():
            table.add_row(name, _format_number(value))
        table.add_row("written", f"{report.folder} ({report.bytes:,} bytes of weights)")
        table.add_row("next", report.then)
        console().print(table, markup=False)

    emit(report.as_dict(), as_json, render)


def _format_number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


for _name, _operation in find_operations().items():
    app.command(_name)(_with_output(_operation))
