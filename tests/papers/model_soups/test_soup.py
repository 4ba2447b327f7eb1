"""Model soups: means, the greedy recipe worked by hand, and learned weights."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.deltas.artefact import Artefact
from ftcli.deltas.delta import Delta
from ftcli.deltas.evaluator import RunEvaluator
from ftcli.papers.model_soups import soup
from tests.deltas.fakes import delta, flat, random

HIGHER = float.__gt__


@pytest.fixture(scope="module")
def pool(full_run, other_run):
    members = [Delta.open(full_run), Delta.open(other_run)]
    return soup.ModelPool(
        members, Artefact.open("asset:llama_mini"), RunEvaluator(full_run, "model")
    )


def test_the_mean_of_copies_is_the_model_and_order_does_not_matter():
    base = {name: torch.randn(shape) for name, shape in random().shapes.items()}
    finetuned = [{n: random(seed)[n].float() for n in base} for seed in range(3)]
    one, two, three = (delta({n: f[n].double() - base[n].double() for n in f}) for f in finetuned)
    alone, copies = one.add_to(base), soup.average_uniformly([one] * 3).add_to(base)
    assert all(torch.equal(copies[name], alone[name]) for name in base)
    ordered, turned = (
        soup.average_uniformly([one, two, three]),
        soup.average_uniformly([three, one, two]),
    )
    assert (flat(ordered) - flat(turned)).abs().max() < 1e-12


def test_the_mean_of_changes_is_the_running_mean_of_models():
    changes = [random(seed) for seed in range(4)]
    base = {name: torch.randn(shape) for name, shape in changes[0].shapes.items()}
    models = [change.add_to(base) for change in changes]
    mixture = soup.average_uniformly(changes).add_to(base)
    for name in base:
        running = models[0][name]
        for n, model in enumerate(models[1:], start=1):
            running = running * n / (n + 1) + model[name] / (n + 1)
        assert (mixture[name] - running).abs().max() < 1e-6


def recorded(scores: dict[tuple[int, ...], float]):
    return lambda chosen: scores[tuple(chosen)]


def test_the_greedy_recipe_by_hand():
    """From best to worst: 1, 3, 0, 2. Model 3 helps, 0 is refused, 2 leaves the score as it is."""
    singles = [0.6, 0.8, 0.5, 0.7]
    score = recorded({(1, 3): 0.82, (1, 3, 0): 0.81, (1, 3, 2): 0.82})
    kept, steps = soup.choose_greedily(singles, score, HIGHER)
    assert kept == [1, 3, 2]
    assert [(s.model, s.kept) for s in steps] == [(1, True), (3, True), (0, False), (2, True)]
    assert soup.choose_greedily(singles, score, HIGHER, accept="gt")[0] == [1, 3]
    taken = [s.score for s in steps if s.kept]
    assert taken == sorted(taken) and taken[-1] >= max(singles)


def test_losses_are_sorted_the_other_way():
    score = recorded({(1, 0): 0.9})
    assert soup.choose_greedily([1.2, 1.0], score, float.__lt__)[0] == [1, 0]


def test_the_greedy_soup_of_real_runs_is_no_worse_than_the_best(pool):
    kept, steps = pool.greedy()
    assert steps[0].score == min(pool.singles)
    assert pool.score(kept) <= min(pool.singles)
    assert pool.score([0, 1]) == pytest.approx(pool.score([1, 0]), abs=1e-6)


def test_a_learned_soup_of_one_hot_logits_is_that_model(pool):
    name = "model.layers.3.mlp.up_proj.weight"
    mixture, weights = pool.learn_weights(epochs=0, logits=torch.tensor([[-80.0, 80.0]] * 9))
    assert weights.shape == (9, 2) and weights[:, 1].min() == 1
    assert torch.equal(mixture[name], pool.members[1][name])


def test_a_mixture_is_the_sum_of_models_weighted_by_group():
    """theta = sum_i alpha_gi theta_i, each group of tensors with coefficients of its own."""
    changes = [random(seed) for seed in range(3)]
    base = {name: torch.randn(shape) for name, shape in changes[0].shapes.items()}
    weights = torch.randn(2, 3).softmax(-1)
    group = {"t0": 0, "t1": 1, "t2": 1}
    mixture = soup.mix_deltas(changes, group, weights).add_to(base)
    for name in base:
        models = [base[name].double() + change[name] for change in changes]
        mean = sum(w * m for w, m in zip(weights[group[name]].double(), models, strict=True))
        assert (mixture[name] - mean).abs().max() < 1e-6


def test_one_step_of_learning_is_adams_first_along_the_gradient(pool, monkeypatch):
    """All held-out rows are one batch: each logit moves by the rate against its derivative."""
    monkeypatch.setattr(pool.evaluator.run.trainer, "batch_size", 64)
    group = dict.fromkeys(pool.members[0].shapes, 0)

    def loss(logits: list[float]) -> float:
        return pool.score_delta(
            soup.mix_deltas(pool.members, group, torch.tensor([logits]).softmax(-1))
        )

    slope = loss([1.0, 0.0]) - loss([0.0, 1.0])
    weights = pool.learn_weights("model", lr=0.05, epochs=1, temperature=False)[1]
    step = torch.tensor([-0.05, 0.05]) if slope > 0 else torch.tensor([0.05, -0.05])
    assert torch.allclose(weights[0], step.softmax(-1), atol=1e-5)


@pytest.mark.parametrize("count", [3, 9])
def test_the_greedy_recipe_holds_a_few_tensors_however_many_models_there_are(count):
    import tracemalloc

    import numpy as np

    size, names = 1 << 16, [f"t{i}" for i in range(8)]

    def read(_: str) -> torch.Tensor:
        return torch.from_numpy(np.ones(size))  # numpy's memory is what is traced

    members = [replace(delta({}), shapes=dict.fromkeys(names, (size,)), read=read)] * count
    weights = {name: torch.zeros(size) for name in names}
    base = SimpleNamespace(fingerprint="base", folder="here", weights=weights)

    def score(tensors, split=None) -> float:
        return -sum(tensors[name].sum().item() for name in tensors)

    pool = soup.ModelPool(members, base, SimpleNamespace(score=score, better=float.__lt__))
    tracemalloc.start()
    assert len(pool.greedy()[0]) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * size * 8


def test_learning_moves_the_weights_where_the_held_out_loss_falls(pool):
    mixture, weights = pool.learn_weights("model", epochs=2)
    assert weights.shape == (1, 2) and weights.sum().item() == pytest.approx(1)
    better = int(pool.singles[1] < pool.singles[0])
    assert weights[0, better] > 0.5
    assert pool.score_delta(mixture) < pool.score([0, 1])


def test_models_of_different_bases_make_no_soup(full_run):
    members = [random(0), random(1)]
    with pytest.raises(UserError, match="not the base"):
        soup.ModelPool(members, Artefact.open("asset:llama_mini"), RunEvaluator(full_run, "model"))
