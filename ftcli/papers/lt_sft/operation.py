"""`ftcli delta compose`: vectors of a task and of languages added to their base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftcli.deltas.options import Base, Force, Source, To
from ftcli.deltas.report import Report

if TYPE_CHECKING:
    from ftcli.deltas.delta import Delta

Others = Annotated[
    list[str], typer.Argument(help="Vectors to add: as SOURCE, or a run's sparse_diff.safetensors.")
]


def compose(
    source: Source, others: Others, to: To, base: Base = None, force: Force = False
) -> Report:
    """Add changes of one base: a task, whose run, head and tokenizer are kept, and languages (LT-SFT, arXiv 2110.07560)."""
    from ftcli.deltas import source as sources
    from ftcli.deltas.delta import sum_deltas

    opened = sources.Source(source, base)
    vectors = [opened.delta, *(_open(path, opened.delta, base) for path in others)]
    figures = {
        f"entries of {path}": sum(int((vector[name] != 0).sum()) for name in vector)
        for path, vector in zip([source, *others], vectors, strict=True)
    }
    return opened.write(sum_deltas(vectors), to, force, figures)


def _open(path: str, task: Delta, base: str | None) -> Delta:
    """Return the change that a path holds, without its head; what a sparse file leaves out does not change."""
    from ftcli.deltas.delta import Delta
    from ftcli.papers.lt_sft import sparse_diff
    from ftcli.papers.lt_sft.pipeline import DIFF

    if Path(path).suffix == ".safetensors":
        return sparse_diff.as_delta(sparse_diff.load_diff(Path(path)), task)
    delta, file = Delta.open(path, base), Path(path) / DIFF
    head = sparse_diff.load_diff(file).dense if file.exists() else {}
    return delta.map(lambda name, t: t * 0 if name in head else t, "without its head")
