"""`ftcli delta`: arithmetic with what finetuning has added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from ftcli.deltas.operations import Report

GROUP = "After training"
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Source = Annotated[
    str, typer.Argument(help="A run, a model or adapter folder, or a delta saved before.")
]
Sources = Annotated[list[str], typer.Argument(help="Runs, or the folder of a sweep.")]
To = Annotated[str, typer.Option(help="Folder to write.")]
Base = Annotated[
    str | None, typer.Option(help="What it was trained from, where the source does not say.")
]
Product = Annotated[
    bool, typer.Option("--product", help="Of a LoRA: the change B A in place of the factors.")
]
Metric = Annotated[str, typer.Option(help="Held-out score that judges: eval.loss, eval.bleu ...")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier call has written.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def delta() -> None:
    """Arithmetic with what finetuning added: compress, prune, scale, mix, move."""


@app.command()
def diff(
    source: Source, to: To, base: Base = None, product: Product = False,
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16", "float16"], typer.Option(help="Of the file.")
    ] = "float32",
    force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Save finetuned minus base."""
    import torch

    from ftcli.deltas import operations

    _show(operations.diff(source, to, base, product, getattr(torch, dtype), force), as_json)


@app.command()
def apply(
    source: Source, to: To, base: Base = None,
    scale: Annotated[float, typer.Option(help="Times the change.")] = 1.0,
    revert: Annotated[
        bool, typer.Option("--revert", help="Take the delta from the finetuned model in --base.")
    ] = False,
    force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Write base plus delta: a run, model or adapter as it was before."""
    from ftcli.deltas import operations

    _show(operations.apply(source, to, base, scale, revert, force), as_json)


@app.command()
def compress(
    source: Source, to: To,
    density: Annotated[float, typer.Option(help="Share of entries kept.", min=1e-6, max=1)] = 0.2,
    alpha: Annotated[float, typer.Option(help="Times the standard deviation.")] = 1.0,
    codec: Annotated[Literal["golomb", "masks"], typer.Option(help="Of the file.")] = "golomb",
    search: Annotated[
        bool, typer.Option("--search", help="Choose density and alpha on held-out rows.")
    ] = False,
    base: Base = None, product: Product = False, metric: Metric = "eval.loss",
    force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Save signs of the largest entries and one scalar (ComPEFT, arXiv 2311.13171)."""
    from ftcli.deltas import operations

    made = operations.compress(
        source, to, density, alpha, codec, search, base, product, metric, force
    )
    _show(made, as_json)


@app.command()
def prune(
    source: Source, to: To,
    p: Annotated[float, typer.Option("--p", help="Share of entries dropped.")] = 0.9,
    method: Annotated[
        Literal["dare", "darex_q", "magnitude"], typer.Option(help="How.")
    ] = "dare",
    q: Annotated[float | None, typer.Option("--q", help="darex_q: what remains is divided by it.")] = None,
    search: Annotated[
        Literal["fixed", "validation", "output", "analytic"],
        typer.Option(help="darex_q: how q is found, where it is not given."),
    ] = "fixed",
    low: Annotated[float | None, typer.Option(help="Of the search; 1 - p if left out.")] = None,
    high: Annotated[float, typer.Option(help="Of the search.")] = 1.0,
    step: Annotated[float, typer.Option(help="Of the search.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the mask.")] = 0,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Pattern of tensors to leave whole; several times.")
    ] = None,
    base: Base = None, product: Product = False, metric: Metric = "eval.loss",
    force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Drop entries at random and enlarge the rest (DARE, DAREx, arXiv 2410.09344)."""
    from ftcli.deltas import operations

    made = operations.prune(
        source, to, p, method, q, search, low, high, step, seed, exclude or [], base, product,
        metric, force,
    )  # fmt: skip
    _show(made, as_json)


@app.command()
def scale(
    source: Annotated[list[str], typer.Argument(help="As for apply; several are merged first.")],
    to: To,
    gamma: Annotated[
        float | None, typer.Option(help="One task: the first block's share; the last keeps all.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Of the first block; by the changes' sizes if left out.")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="What the last block gets besides.")] = None,
    outside: Annotated[
        Literal["alpha", "by_position"], typer.Option(help="Tensors outside the blocks.")
    ] = "alpha",
    control: Annotated[
        str | None, typer.Option(help="A run whose data must not suffer: gamma is searched.")
    ] = None,
    merge: Annotated[
        Literal["sum", "ties", "consensus"], typer.Option(help="How several are merged.")
    ] = "sum",
    density: Annotated[
        float, typer.Option(help="ties: share of each change kept.", min=1e-6, max=1)
    ] = 0.2,
    base: Base = None, product: Product = False, force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Scale a change by depth (LiNeS, arXiv 2410.17146)."""
    from ftcli.deltas import operations

    made = operations.scale(
        source, to, gamma, alpha, beta, outside, control, merge, density, base, product, force
    )
    _show(made, as_json)


@app.command()
def soup(
    source: Sources, to: To,
    recipe: Annotated[
        Literal["uniform", "greedy", "learned"], typer.Option(help="How they are mixed.")
    ] = "greedy",
    accept: Annotated[
        Literal["ge", "gt"], typer.Option(help="greedy: an equal score is enough, or not.")
    ] = "ge",
    granularity: Annotated[
        Literal["layer", "model"], typer.Option(help="learned: weights a block, or for all.")
    ] = "layer",
    epochs: Annotated[int, typer.Option(help="learned: over the held-out rows.", min=1)] = 5,
    metric: Metric = "eval.loss",
    split: Annotated[
        str | None, typer.Option(help="Judge the soup on this split besides: test.")
    ] = None,
    force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Average finetuned models (model soups, arXiv 2203.05482)."""
    from ftcli.deltas import operations

    made = operations.make_soup(
        source, to, recipe, accept, granularity, epochs, metric, split, force
    )
    _show(made, as_json)


@app.command()
def transfer(
    source: Source,
    target: Annotated[str, typer.Option(help="The base that gets the change.")],
    to: To, base: Base = None,
    scale: Annotated[float, typer.Option(help="Times the change.")] = 1.0,
    force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Add a change to another base (finetuning transfer, arXiv 2503.20110)."""
    from ftcli.deltas import operations

    _show(operations.move(source, target, to, base, scale, force), as_json)


def _show(report: Report, as_json: bool) -> None:
    from ftcli.core.console import console, emit

    def render() -> None:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in report.figures.items():
            table.add_row(name, _number(value))
        table.add_row("written", f"{report.folder} ({report.bytes:,} bytes of weights)")
        table.add_row("next", report.then)
        console().print(table, markup=False)

    emit(report.as_dict(), as_json, render)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
