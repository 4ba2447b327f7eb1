"""Measurements of the mezo recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

REGULARISATION = 1.0  # weight of |w|^2 / 2 beside the sum of the rows' losses
STEPS = 200  # of L-BFGS, which then stands still


@measure
def accuracy_over_linear_probe(run: Path) -> float:
    """Test accuracy of the run minus that of logistic regression on the same rows, in percent.

    Its features are the base's hidden states where the answer begins.
    """
    from ftcli.reproduce.measure import read_metric
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.objective.setup(fresh)
    weights = _fit(*_features(fresh, "train"))
    features, targets = _features(fresh, "test")
    hits = ((features @ weights).argmax(1) == targets).float()
    return read_metric("eval.accuracy", run) - 100 * hits.mean().item()


def _features(run: Any, split: str) -> tuple[Any, Any]:
    """Hidden states with a 1 for the bias [n, d + 1] and classes [n] of the rows of a split."""
    import torch

    from ftcli.models.decoding import judging
    from ftcli.objectives.candidates import score_candidates

    loader = run.data.loader(split, run.tokenizer, batch_size=64, seed=0, shuffle=False)
    hidden, targets = [], []
    with judging(run) as model:
        for batch in loader:
            found = score_candidates(model, batch, run.objective.candidates)
            hidden.append(found.hidden.float())
            targets.append(found.targets)
    features = torch.cat(hidden)
    return torch.cat([features, torch.ones(len(features), 1)], 1), torch.cat(targets)


def _fit(features: Any, targets: Any) -> Any:
    """Weights [d + 1, C] that minimise the regularised cross-entropy."""
    import torch
    from torch.nn.functional import cross_entropy

    weights = torch.zeros(features.shape[1], int(targets.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        losses = cross_entropy(features @ weights, targets, reduction="sum")
        total = losses + REGULARISATION / 2 * weights[:-1].square().sum()
        total.backward()
        return total

    optimizer.step(closure)
    return weights.detach()


@measure(exact=True)
def gradients_taken(run: Path) -> float:
    """Gradients of parameters that arrive during the first step of the run, one a tensor."""
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run, trainer={"max_steps": 1, "eval_first": False, "eval_every": None})
    fresh.evaluators = {}
    arrived: list[int] = []
    for parameter in fresh.model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: arrived.append(p.numel()))
    fresh.trainer.fit(fresh)
    return float(len(arrived))


@measure(exact=True)
def replay_difference(run: Path) -> float:
    """Largest difference between the trained weights and those that the log of (seed, g) leads to."""
    from ftcli.reproduce.probe import measure_distance
    from ftcli.run.replay import replay

    return measure_distance(run, replay(run))
