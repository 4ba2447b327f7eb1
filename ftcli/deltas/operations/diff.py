"""`ftcli delta diff`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ftcli.deltas.options import Base, Force, Product, Source, To
from ftcli.deltas.report import Report

Dtype = Annotated[
    Literal["float32", "float64", "bfloat16", "float16"], typer.Option(help="Of the file.")
]


def diff(
    source: Source, to: To, base: Base = None, product: Product = False,
    dtype: Dtype = "float32", force: Force = False,
) -> Report:  # fmt: skip
    """Save finetuned minus base."""
    import torch

    from ftcli.deltas import source as sources
    from ftcli.deltas import storage

    opened = sources.Source(source, base, product)
    delta = opened.delta
    size = storage.save_delta(
        delta, to, getattr(torch, dtype), force=force, at=opened.places, base=opened.base
    )
    trained, restored = delta.apply(opened.base), storage.load_delta(to).apply(opened.base)
    figures = {"tensors": len(delta), "entries": delta.entries, "norm": delta.norm()}
    figures["entries changed by rounding"] = sum(
        int((trained[name] != restored[name]).sum()) for name in delta
    )
    return Report(to, size, figures, f"ftcli delta apply {to} --to FOLDER")
