"""Scores and costs of the variants of a recipe, as means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftcli.core.run_dir import RunDir
from ftcli.reproduce.interval import interval
from ftcli.reproduce.measure import figures

if TYPE_CHECKING:
    from ftcli.reproduce.experiment import Experiment

QUALITY = "eval.loss"  # lower is better
COLUMNS = (
    "before.eval.loss", QUALITY, "trainable_parameters", "adapter_bytes", "peak_memory_gb",
    "seconds", "tok_s",
)  # fmt: skip


def collect_values(experiment: Experiment, variant: str) -> dict[str, list[float]]:
    """Return figure -> values, one per seed, for the figures that every seed has."""
    seeds = [figures(RunDir(run.path).result()) for run in experiment.trials_of(variant)]
    shared = [name for name in seeds[0] if all(name in seed for seed in seeds)]
    return {name: [seed[name] for seed in seeds] for name in shared}


def build_table(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Return variant -> figure -> mean over seeds, sorted by quality, with the rank.

    Variants share a rank while the paired difference to the first of that rank may be zero: its
    95 % interval contains 0. With few seeds many do.
    """
    figures_by_variant = {
        variant: collect_values(experiment, variant) for variant in experiment.variants
    }
    shown = {
        variant: {
            name: sum(v[name]) / len(v[name])
            for name in (*COLUMNS, *_further_scores(v))
            if name in v
        }
        for variant, v in figures_by_variant.items()
    }
    if not all(QUALITY in v for v in figures_by_variant.values()):
        return shown
    order = sorted(shown, key=lambda variant: shown[variant][QUALITY])
    places = rank_variants([figures_by_variant[variant][QUALITY] for variant in order])
    return {v: {"rank": place, **shown[v]} for v, place in zip(order, places, strict=True)}


def rank_variants(ordered: Sequence[Sequence[float]]) -> list[int]:
    """Return the ranks of variants sorted by their mean; each item holds one value per seed."""
    places: list[int] = []
    first = 0
    for index, losses in enumerate(ordered):
        paired = [a - b for a, b in zip(losses, ordered[first], strict=True)]
        if index and interval(paired).low > 0:
            first = index
        places.append(first + 1)
    return places


def _further_scores(figures: dict[str, list[float]]) -> list[str]:
    """Return the names of the scores other than the loss."""
    scores = [n for n in figures if n.startswith("eval.") and n not in COLUMNS]
    return [n for n in scores if n != "eval.perplexity"]
