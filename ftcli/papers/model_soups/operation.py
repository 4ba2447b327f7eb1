"""`ftcli delta soup`: a soup of finished runs, or of the trials of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ftcli.core.errors import UserError
from ftcli.deltas.options import Force, Metric, To
from ftcli.deltas.report import Report

Sources = Annotated[list[str], typer.Argument(help="Runs, or the folder of a sweep.")]
Recipe = Annotated[
    Literal["uniform", "greedy", "learned"], typer.Option(help="How models are mixed.")
]
Accept = Annotated[
    Literal["ge", "gt"],
    typer.Option(help="greedy: accept an equal score (ge), or only a better one (gt)."),
]
Granularity = Annotated[
    Literal["layer", "model"],
    typer.Option(help="learned: one weight a model and block, or one a model."),
]
Epochs = Annotated[int, typer.Option(help="learned: passes over the held-out rows.", min=1)]
Split = Annotated[str | None, typer.Option(help="Also score the soup on this split, such as test.")]


def soup(
    source: Sources, to: To, recipe: Recipe = "greedy", accept: Accept = "ge",
    granularity: Granularity = "layer", epochs: Epochs = 5, metric: Metric = "eval.loss",
    split: Split = None, force: Force = False,
) -> Report:  # fmt: skip
    """Average finetuned models (model soups, arXiv 2203.05482)."""
    from ftcli.deltas import source as sources
    from ftcli.papers.model_soups import soup as soups

    runs = _finished_runs(source)
    opened = [sources.Source(run, product=True) for run in runs]
    deltas, names = [run.delta for run in opened], [Path(run).name for run in runs]
    if recipe == "uniform":
        ingredients = {"ingredients": ", ".join(names)}
        return opened[0].write(soups.average_uniformly(deltas), to, force, ingredients)
    pool = soups.ModelPool(deltas, opened[0].base, opened[0].evaluator(metric))
    figures: dict[str, Any] = dict(zip(names, pool.singles, strict=True))
    if recipe == "learned":
        mixture, weights = pool.learn_weights(granularity, epochs=epochs)
        mean = weights.mean(0).tolist()
        figures |= {f"weight of {name}": w for name, w in zip(names, mean, strict=True)}
    else:
        chosen = pool.greedy(accept)[0]
        mixture = soups.average_uniformly([pool.members[i] for i in chosen])
        figures["ingredients"] = ", ".join(names[i] for i in chosen)
    figures[f"{metric} of the soup"] = pool.score_delta(mixture)
    if split is not None:
        figures[f"{metric} on {split}"] = pool.score_delta(mixture, split)
    return opened[0].write(mixture, to, force, figures)


def _finished_runs(sources: Sequence[str]) -> list[str]:
    """Return the run directories, with a sweep's folder replaced by its finished trials.

    Raises:
        UserError: fewer than two are finished.
    """
    from ftcli.jobs.trial import read_finished_result

    runs: list[str] = []
    for source in sources:
        inside = sorted(Path(source).glob("*/config.yaml"))
        if (Path(source) / "config.yaml").exists() or not inside:
            runs.append(source)
        else:
            trials = [file.parent for file in inside if not file.parent.is_symlink()]
            runs += [str(trial) for trial in trials if read_finished_result(trial)]
    if len(runs) < 2:
        raise UserError(
            f"a soup needs at least two finished runs; {len(runs)} found.",
            fix="ftcli delta soup sweeps/NAME/latest --to FOLDER",
        )
    return runs
