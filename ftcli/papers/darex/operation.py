"""`ftcli delta prune`: DARE, DAREx-q, or the largest entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ftcli.core.errors import UserError
from ftcli.deltas.options import Base, Force, Metric, Product, Source, To
from ftcli.deltas.report import Report

if TYPE_CHECKING:
    from ftcli.deltas.source import Source as OpenedSource
    from ftcli.deltas.weights import LazyWeights

P = Annotated[float, typer.Option("--p", help="Share of entries dropped.")]
Method = Annotated[
    Literal["dare", "darex_q", "magnitude"],
    typer.Option(help="Random entries (dare, darex_q) or those of smallest magnitude."),
]
Q = Annotated[
    float | None, typer.Option("--q", help="darex_q: remaining entries are divided by it.")
]
Search = Annotated[
    Literal["fixed", "validation", "output", "analytic"],
    typer.Option(help="darex_q: how to search q if --q is left out."),
]
Low = Annotated[float | None, typer.Option(help="Lowest q of the search; 1 - p if left out.")]
High = Annotated[float, typer.Option(help="Highest q of the search.")]
Step = Annotated[float, typer.Option(help="Step of the coarse search.")]
Seed = Annotated[int, typer.Option(help="Seed of the mask.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Pattern of tensors that are not pruned; may be given several times."),
]


def prune(
    source: Source, to: To, p: P = 0.9, method: Method = "dare", q: Q = None,
    search: Search = "fixed", low: Low = None, high: High = 1.0, step: Step = 0.1, seed: Seed = 0,
    exclude: Exclude = None, base: Base = None, product: Product = False,
    metric: Metric = "eval.loss", force: Force = False,
) -> Report:  # fmt: skip
    """Drop entries at random and rescale the others (DARE, DAREx, arXiv 2410.09344)."""
    from ftcli.deltas import source as sources
    from ftcli.deltas.magnitudes import prune_delta
    from ftcli.papers.darex import pruning

    opened = sources.Source(source, base, product)
    if method == "magnitude":
        return opened.write(prune_delta(opened.delta, 1 - p), to, force, {"p": p})
    names = pruning.select_tensors(opened.delta, exclude or [])
    divisor: Any = q
    if method == "darex_q" and q is None:
        if search == "fixed":
            raise UserError("darex_q needs a q.", "--q", "--q 0.3, or --search validation")
        grid = (1 - p if low is None else low, high, step)
        divisor = _search_q(opened, p, names, search, grid, metric)
    changed = pruning.drop_entries(opened.delta, p, divisor, seed, names)
    mean = sum(divisor.values()) / len(divisor) if isinstance(divisor, dict) else divisor or 1 - p
    figures = {"p": p, "q": mean, "tensors pruned": len(names)}
    return opened.write(changed, to, force, figures | {"bits an entry": pruning.bits_per_entry(p)})


def _search_q(
    opened: OpenedSource, p: float, names: Sequence[str],
    search: Literal["validation", "output", "analytic"], grid: tuple[float, float, float],
    metric: str,
) -> float | dict[str, float]:  # fmt: skip
    """Return q for all tensors, or by tensor (`analytic`)."""
    from ftcli.papers.darex import pruning
    from ftcli.papers.darex.calibration import OutputChange, compute_layer_q, compute_mean_inputs

    delta, evaluator = opened.delta, opened.evaluator(metric)

    def prune_tensors(q: float | dict[str, float]) -> LazyWeights:
        return opened.tensors(pruning.drop_entries(delta, p, q, names=names))

    if search == "validation":
        return pruning.search_grid(
            lambda q: evaluator.score(prune_tensors(q)), evaluator.better, *grid
        )[0]
    change = OutputChange(evaluator, opened.tensors(delta))
    if search == "output":
        return pruning.search_grid(lambda q: change(prune_tensors(q)), lambda a, b: a < b, *grid)[0]
    inputs = compute_mean_inputs(evaluator, opened.tensors(delta))
    eta = pruning.search_grid(
        lambda eta: change(prune_tensors(compute_layer_q(delta, inputs, p, eta))),
        lambda a, b: a < b, 0.1, 0.7, 0.1,
    )[0]  # fmt: skip
    return compute_layer_q(delta, inputs, p, eta)
