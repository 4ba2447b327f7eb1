"""Measurements of the model_soups recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.deltas.evaluator import RunEvaluator
from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ftcli.deltas.delta import Delta
    from ftcli.papers.model_soups.soup import ModelPool

OTHERS = "scratch"  # variants that begin elsewhere
CHOOSING, FRESH, SHIFT = "validation", "fresh", "test"


@measure
def soup_pot(run: Path) -> float:
    """Number of models in the pool."""
    return float(len(load_pool(run).members))


class HalvedValidation(RunEvaluator):
    """An evaluator whose split `validation` is the first half of the validation rows, `fresh` the second."""

    def score(self, tensors: Mapping[str, Tensor] | None = None, split: str | None = None) -> float:
        """Return the loss in nats a token."""
        from ftcli.models.decoding import evaluation_mode

        if split == SHIFT:
            return super().score(tensors, split)
        if tensors is not None:
            self.load(tensors)
        run = self.run
        loader = run.data.loader("validation", run.tokenizer, batch_size=8, seed=0, shuffle=False)
        batches = loader.list_batch_indices(0)
        middle = len(batches) // 2
        total, count = 0.0, 0
        with evaluation_mode(run) as model:
            for rows in batches[middle:] if split == FRESH else batches[:middle]:
                losses = run.objective(model, loader.batch(rows)).values
                total, count = total + losses.double().sum().item(), count + losses.numel()
        return total / count


@cache
def load_pool(run: Path) -> ModelPool:
    """Return the models of this seed as a pool that is scored by this run's validation rows."""
    from ftcli.papers.model_soups.soup import ModelPool
    from ftcli.reproduce.deltas import analyse_run, find_sibling_runs, read_name

    seed = read_name(run)[1]
    runs = [r for (v, s), r in sorted(find_sibling_runs(run).items()) if s == seed and v != OTHERS]
    return ModelPool(
        [analyse_run(folder).delta for folder in runs],
        analyse_run(run).base,
        HalvedValidation(run, "model"),
    )


@cache
def loss(run: Path, recipe: str, split: str) -> float:
    """Return the loss on a split of the best model on the first half, or of a soup (`recipe`)."""
    pool = load_pool(run)
    if recipe == "learned":
        return pool.score_delta(_load_learned_soup(run), split)
    best = [pool.singles.index(min(pool.singles))]
    everything = list(range(len(pool.members)))
    chosen = {"best": best, "uniform": everything}.get(recipe) or pool.greedy()[0]
    return pool.score(chosen, split)


@cache
def _load_learned_soup(run: Path) -> Delta:
    """Return the soup with learned weights a block."""
    return load_pool(run).learn_weights()[0]


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
    pool = load_pool(run)
    return pool.score(pool.greedy()[0]) - min(pool.singles)


@measure
def soup_learned_shift_gain(run: Path) -> float:
    """Test loss of the soup with learned weights a block minus the best model's."""
    return loss(run, "learned", SHIFT) - loss(run, "best", SHIFT)


@measure
def soup_of_strangers(run: Path) -> float:
    """Test loss of the mean of this variant's runs over all seeds, minus the mean of their losses.

    The same for every seed: they are averaged together.
    """
    from ftcli.papers.model_soups.soup import average_uniformly
    from ftcli.reproduce.deltas import analyse_run, find_sibling_runs, read_name

    variant = read_name(run)[0]
    runs = [
        folder for (name, _), folder in sorted(find_sibling_runs(run).items()) if name == variant
    ]
    analysis = analyse_run(run)
    deltas = [analyse_run(folder).delta for folder in runs]
    mean = sum(analysis.loss(delta) for delta in deltas) / len(deltas)
    return analysis.loss(average_uniformly(deltas)) - mean


@measure
def soup_uniform_over_greedy_shift(run: Path) -> float:
    """Test loss of the uniform soup minus the greedy one's."""
    return loss(run, "uniform", SHIFT) - loss(run, "greedy", SHIFT)


@measure
def soup_uniform_shift_gain(run: Path) -> float:
    """Test loss (meaning representations of other kinds) of the mean minus the best model's."""
    return loss(run, "uniform", SHIFT) - loss(run, "best", SHIFT)
