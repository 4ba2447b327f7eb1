"""The models of one seed that differ in what they were trained with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ftcli.deltas.bench import Bench

OTHERS = "scratch"  # variants that begin elsewhere
CHOOSING, FRESH, SHIFT = "validation", "fresh", "test"


def soup_pot(run: Path) -> float:
    """How many models there are."""
    return float(len(pot(run).members))


class Halves(Bench):
    """A judge whose split `validation` is one half of those rows, and `fresh` the other."""

    def score(self, tensors: Any = None, split: str | None = None) -> float:
        """Loss, nats a token."""
        from ftcli.models.decoding import judging

        if split == SHIFT:
            return super().score(tensors, split)
        self.hold(tensors)
        run = self.run
        loader = run.data.loader("validation", run.tokenizer, batch_size=8, seed=0, shuffle=False)
        batches = loader.batches(0)
        middle = len(batches) // 2
        total, count = 0.0, 0
        with judging(run) as model:
            for rows in batches[middle:] if split == FRESH else batches[:middle]:
                losses = run.objective(model, loader.batch(rows)).values
                total, count = total + losses.double().sum().item(), count + losses.numel()
        return total / count


@cache
def pot(run: Path) -> Any:
    """Them, with this run as the judge."""
    from ftcli.papers.model_soups.soup import Pot
    from ftcli.reproduce.deltas import beside, name_of, opened

    seed = name_of(run)[1]
    runs = [r for (v, s), r in sorted(beside(run).items()) if s == seed and v != OTHERS]
    return Pot([opened(one).delta for one in runs], opened(run).base, Halves(run, "model"))


@cache
def loss(run: Path, recipe: str, split: str) -> float:
    """Of the best model on the choosing half, or of a soup."""
    made = pot(run)
    if recipe == "learned":
        return made.judge(_learned(run), split)
    best = [made.singles.index(min(made.singles))]
    everything = list(range(len(made.members)))
    chosen = {"best": best, "uniform": everything}.get(recipe) or made.greedy()[0]
    return made.score(chosen, split)


@cache
def _learned(run: Path) -> Any:
    return pot(run).learned()[0]
