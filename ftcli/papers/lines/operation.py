"""`ftcli delta scale`: LiNeS on one delta, or on the merger of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ftcli.core.errors import UserError
from ftcli.deltas.options import Base, Force, Product, To
from ftcli.deltas.report import Report

if TYPE_CHECKING:
    from ftcli.deltas.source import Source

Sources = Annotated[list[str], typer.Argument(help="As for apply; several are merged first.")]
Gamma = Annotated[
    float | None, typer.Option(help="One task: the first block's share; the last keeps all.")
]
Alpha = Annotated[
    float | None, typer.Option(help="Of the first block; by the changes' sizes if left out.")
]
Beta = Annotated[float | None, typer.Option(help="What the last block gets besides.")]
Outside = Annotated[
    Literal["alpha", "by_position"], typer.Option(help="Tensors outside the blocks.")
]
Control = Annotated[
    str | None, typer.Option(help="A run whose data must not suffer: gamma is searched.")
]
Merge = Annotated[Literal["sum", "ties", "consensus"], typer.Option(help="How several are merged.")]
Density = Annotated[float, typer.Option(help="ties: share of each change kept.", min=1e-6, max=1)]


def scale(
    source: Sources, to: To, gamma: Gamma = None, alpha: Alpha = None, beta: Beta = None,
    outside: Outside = "alpha", control: Control = None, merge: Merge = "sum",
    density: Density = 0.2, base: Base = None, product: Product = False, force: Force = False,
) -> Report:  # fmt: skip
    """Scale a change by depth (LiNeS, arXiv 2410.17146)."""
    from ftcli.deltas import mergers
    from ftcli.deltas import source as sources
    from ftcli.deltas.delta import Delta
    from ftcli.papers.lines import scaling

    if merge != "sum" and len(source) == 1:
        raise UserError(
            f"{merge} merges several changes, and one was named.", "--merge", "name more"
        )
    opened = sources.Source(source[0], base, product or len(source) > 1)
    parts = [opened.delta, *(Delta.open(path, base, True) for path in source[1:])]
    merged = mergers.merge_deltas(parts, merge, density) if len(parts) > 1 else parts[0]
    figures: dict[str, Any] = {}
    if control is not None:
        gamma, scores = _search_gamma(opened, control, outside)
        figures |= {f"gamma {value:g}": score for value, score in scores.items()}
    if gamma is not None:
        alpha, beta = scaling.single_task_factors(gamma)
    if beta is None:
        raise UserError(
            "neither gamma nor beta says how to scale.",
            where="--gamma",
            fix="--gamma 0.3, or --beta 0.7 with --alpha",
        )
    alpha = scaling.merged_alpha(parts, merged) if alpha is None else alpha
    figures |= {"alpha": alpha, "beta": beta, "changes": len(parts)}
    return opened.write(scaling.scale_by_depth(merged, alpha, beta, outside), to, force, figures)


def _search_gamma(
    opened: Source, control: str, outside: Literal["alpha", "by_position"]
) -> tuple[float, dict[float, float]]:
    """Return the best gamma on the run's held-out rows and those of the control run, and all scores."""
    from ftcli.deltas.delta import Delta
    from ftcli.deltas.evaluator import RunEvaluator
    from ftcli.papers.lines import scaling

    delta = opened.delta
    task, other = opened.evaluator("eval.loss"), RunEvaluator(control, delta.kind)

    def score_both(change: Delta) -> tuple[float, float]:
        tensors = opened.tensors(change)
        return task.score(tensors), other.score(tensors)

    return scaling.search_gamma(
        lambda gamma: score_both(
            scaling.scale_by_depth(delta, *scaling.single_task_factors(gamma), outside)
        ),
        finetuned=task.score(opened.tensors(delta)),
        pretrained=other.score(opened.tensors(delta.scale(0.0))),
    )
