"""`ftcli delta compress`: a ternary delta on disk."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ftcli.deltas.options import Base, Force, Metric, Product, Source, To
from ftcli.deltas.report import Report

Density = Annotated[float, typer.Option(help="Share of entries kept.", min=1e-6, max=1)]
Alpha = Annotated[
    float, typer.Option(help="Size of kept entries, in standard deviations of the delta.")
]
Codec = Annotated[Literal["golomb", "masks"], typer.Option(help="Code of the file.")]
Search = Annotated[
    bool, typer.Option("--search", help="Choose density and alpha on held-out rows.")
]


def compress(
    source: Source, to: To, density: Density = 0.2, alpha: Alpha = 1.0, codec: Codec = "golomb",
    search: Search = False, base: Base = None, product: Product = False,
    metric: Metric = "eval.loss", force: Force = False,
) -> Report:  # fmt: skip
    """Save signs of the largest entries and one scalar (ComPEFT, arXiv 2311.13171)."""
    from ftcli.deltas import source as sources
    from ftcli.deltas import storage, ternary
    from ftcli.papers.compeft import compression

    storage.prepare_target(to, force)
    opened = sources.Source(source, base, product)
    delta, figures = opened.delta, {}
    if search:
        evaluator = opened.evaluator(metric)
        density, alpha, trials = compression.search_settings(
            delta, lambda d: evaluator.score(opened.tensors(d)), evaluator.better
        )
        figures = {metric: min(v for d, a, v in trials if (d, a) == (density, alpha))}
    changed, coded = compression.compress(delta, density, alpha)
    data = ternary.encode(coded, codec)
    storage.save_delta(changed, to, coded=data, force=force, at=opened.places, base=opened.base)
    before = delta.entries * delta.dtype.itemsize
    figures |= {
        "density": density, "alpha": alpha, "scale": coded.scale, "entries": delta.entries,
        "bytes before": before, "bytes at 16 bit": 2 * delta.entries,
        "times smaller": before / len(data), "times smaller than 16 bit": 2 * delta.entries / len(data),
    }  # fmt: skip
    return Report(to, len(data), figures, f"ftcli delta apply {to} --to FOLDER")
