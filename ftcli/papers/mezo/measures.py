"""Measurements of the mezo recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from torch import Tensor

    from ftcli.core.run import Run

REGULARISATION = 1.0  # weight of |w|^2 / 2 beside the sum of the rows' losses
STEPS = 200  # of L-BFGS, which has converged by then


@measure
def accuracy_over_linear_probe(run: Path) -> float:
    """Test accuracy of the run minus that of logistic regression on the same rows, in percent.

    The features of the regression are the base's hidden states at the position before the answer.
    """
    from ftcli.reproduce.measure import read_metric
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    fresh.objective.setup(fresh)
    weights = _fit_probe(*_collect_features(fresh, "train"))
    features, targets = _collect_features(fresh, "test")
    hits = ((features @ weights).argmax(1) == targets).float()
    return read_metric("eval.accuracy", run) - 100 * hits.mean().item()


def _collect_features(run: Run, split: str) -> tuple[Tensor, Tensor]:
    """Return hidden states with a 1 for the bias [n, d + 1] and classes [n] of a split's rows."""
    import torch

    from ftcli.models.decoding import evaluation_mode
    from ftcli.objectives.candidates import score_candidates

    objective: Any = run.objective
    loader = run.data.loader(split, run.tokenizer, batch_size=64, seed=0, shuffle=False)
    hidden, targets = [], []
    with evaluation_mode(run) as model:
        for batch in loader:
            scores = score_candidates(model, batch, objective.candidates)
            hidden.append(scores.hidden.float())
            targets.append(scores.targets)
    features = torch.cat(hidden)
    return torch.cat([features, torch.ones(len(features), 1)], 1), torch.cat(targets)


def _fit_probe(features: Tensor, targets: Tensor) -> Tensor:
    """Return the weights [d + 1, C] that minimise the regularised cross-entropy."""
    import torch
    from torch.nn.functional import cross_entropy

    weights = torch.zeros(features.shape[1], int(targets.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = cross_entropy(features @ weights, targets, reduction="sum")
        total = losses + REGULARISATION / 2 * weights[:-1].square().sum()
        total.backward()
        return total

    optimizer.step(closure)
    return weights.detach()


@measure(exact=True)
def gradients_taken(run: Path) -> float:
    """Number of parameter tensors that receive a gradient during the first step of the run."""
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run, trainer={"max_steps": 1, "eval_first": False, "eval_every": None})
    fresh.load_model()
    fresh.evaluators = {}
    sizes: list[int] = []
    for parameter in fresh.model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: sizes.append(p.numel()))
    fresh.trainer.fit(fresh)
    return float(len(sizes))


@measure(exact=True)
def replay_difference(run: Path) -> float:
    """Largest difference between the trained weights and those replayed from the log of (seed, g)."""
    from ftcli.papers.mezo.replay import replay_run
    from ftcli.reproduce.probe import measure_distance

    return measure_distance(run, replay_run(run))
