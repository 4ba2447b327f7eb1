"""Measurements of the model_soups recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ftcli.deltas.evaluator import RunEvaluator
from ftcli.reproduce.measures import measure

OTHERS = "scratch"  # variants that begin elsewhere
CHOOSING, FRESH, SHIFT = "validation", "fresh", "test"


@measure
def soup_pot(run: Path) -> float:
    """How many models there are."""
    return float(len(pot(run).members))


class Halves(RunEvaluator):
    """A judge whose split `validation` is one half of those rows, and `fresh` the other."""

    def score(self, tensors: Any = None, split: str | None = None) -> float:
        """Loss, nats a token."""
        from ftcli.models.decoding import judging

        if split == SHIFT:
            return super().score(tensors, split)
        self.load(tensors)
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
    from ftcli.reproduce.deltas import analyse_run, find_sibling_runs, read_name

    seed = read_name(run)[1]
    runs = [r for (v, s), r in sorted(find_sibling_runs(run).items()) if s == seed and v != OTHERS]
    return Pot(
        [analyse_run(one).delta for one in runs], analyse_run(run).base, Halves(run, "model")
    )


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


@measure
def soup_greedy_gain(run: Path) -> float:
    """Loss on fresh held-out rows, the soup's minus the best model's on the rows that choose."""
    return loss(run, "greedy", FRESH) - loss(run, "best", FRESH)


@measure
def soup_greedy_over_uniform(run: Path) -> float:
    """Loss on fresh held-out rows, the greedy soup's minus the uniform one's."""
    return loss(run, "greedy", FRESH) - loss(run, "uniform", FRESH)


@measure
def soup_greedy_shift_gain(run: Path) -> float:
    """Test loss (meaning representations of other kinds) of the soup minus the best model's."""
    return loss(run, "greedy", SHIFT) - loss(run, "best", SHIFT)


@measure(exact=True)
def soup_held_out_gain(run: Path) -> float:
    """Loss on the choosing rows, the greedy soup's minus the best single model's."""
    made = pot(run)
    return made.score(made.greedy()[0]) - min(made.singles)


@measure
def soup_learned_shift_gain(run: Path) -> float:
    """Test loss of the soup with learned weights a block minus the best model's."""
    return loss(run, "learned", SHIFT) - loss(run, "best", SHIFT)


@measure
def soup_of_strangers(run: Path) -> float:
    """Test loss of the mean of this variant's runs over all seeds, minus the mean of their losses.

    The same for every seed: they are averaged together.
    """
    from ftcli.papers.model_soups.soup import uniform
    from ftcli.reproduce.deltas import analyse_run, find_sibling_runs, read_name

    variant = read_name(run)[0]
    runs = [one for (own, _), one in sorted(find_sibling_runs(run).items()) if own == variant]
    own = analyse_run(run)
    deltas = [analyse_run(one).delta for one in runs]
    return own.loss(uniform(deltas)) - sum(own.loss(d) for d in deltas) / len(deltas)


@measure
def soup_uniform_over_greedy_shift(run: Path) -> float:
    """Test loss of the uniform soup minus the greedy one's."""
    return loss(run, "uniform", SHIFT) - loss(run, "greedy", SHIFT)


@measure
def soup_uniform_shift_gain(run: Path) -> float:
    """Test loss (meaning representations of other kinds) of the mean minus the best model's."""
    return loss(run, "uniform", SHIFT) - loss(run, "best", SHIFT)
