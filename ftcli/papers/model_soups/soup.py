"""Model soups (arXiv 2203.05482): the mean of models finetuned from one base, uniform, greedy or with learned weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ftcli.deltas.artefact import Artefact
from ftcli.deltas.delta import Delta, refuse_mixed, sum_deltas
from ftcli.deltas.evaluator import RunEvaluator
from ftcli.deltas.positions import find_positions

if TYPE_CHECKING:
    from ftcli.objectives.base import Objective

Accept = Literal[
    "ge", "gt"
]  # the paper accepts an equal score, the authors' code only a better one
Granularity = Literal["layer", "model"]
Better = Callable[[float, float], bool]


def average_uniformly(deltas: Sequence[Delta]) -> Delta:
    """Return the mean of deltas, which gives the mean of the models, since they share their base.

    Raises:
        UserError: the fingerprints of their bases differ.
    """
    return sum_deltas(deltas, [1 / len(deltas)] * len(deltas))


@dataclass(frozen=True)
class Step:
    """A trial of the greedy soup: the model, the score of the soup with it, whether it was kept."""

    model: int
    score: float
    kept: bool


def choose_greedily(
    singles: Sequence[float],
    score: Callable[[list[int]], float],
    better: Better,
    accept: Accept = "ge",
) -> tuple[list[int], list[Step]]:
    """Return the chosen models and all trials (Recipe 1).

    Models are tried from best to worst, and each is kept if the mean with it is no worse.

    Args:
        singles: held-out score of each model.
        score: returns the held-out score of the mean of the models with these indices.
        better: whether its first score is better than its second.
        accept: whether an equal score is enough (ge) or not (gt).
    """
    order = sorted(range(len(singles)), key=lambda i: sum(better(s, singles[i]) for s in singles))
    kept, current = [order[0]], singles[order[0]]
    steps = [Step(order[0], current, True)]
    for model in order[1:]:
        value = score([*kept, model])
        taken = better(value, current) or (accept == "ge" and value == current)
        steps.append(Step(model, value, taken))
        if taken:
            kept, current = [*kept, model], value
    return kept, steps


@dataclass
class ModelPool:
    """Finetuned models of one base, and the evaluator whose held-out rows score their mixtures.

    Raises:
        UserError: the bases differ.
    """

    members: Sequence[Delta]
    base: Artefact
    evaluator: RunEvaluator

    def __post_init__(self) -> None:
        refuse_mixed(self.members)
        self.members[0].refuse_other(self.base.fingerprint, str(self.base.folder))

    @cached_property
    def singles(self) -> list[float]:
        """Held-out score of each model."""
        return [self.score([i]) for i in range(len(self.members))]

    def score(self, chosen: Sequence[int], split: str | None = None) -> float:
        """Return the score of the mean of the models with these indices; split None: the evaluator's."""
        return self.score_delta(average_uniformly([self.members[i] for i in chosen]), split)

    def score_delta(self, delta: Delta, split: str | None = None) -> float:
        """Return the score of the base plus a delta; only one model is in memory at a time."""
        return self.evaluator.score(delta.add_to(self.base.weights), split)

    def greedy(self, accept: Accept = "ge") -> tuple[list[int], list[Step]]:
        """Return the models of the greedy soup, and all trials."""
        return choose_greedily(self.singles, self.score, self.evaluator.better, accept)

    def learn_weights(
        self,
        granularity: Granularity = "layer",
        lr: float = 0.05,
        epochs: int = 5,
        temperature: bool = True,
        logits: Tensor | None = None,
    ) -> tuple[Delta, Tensor]:
        """Learn softmax weights by gradient descent on the held-out rows; all models are in memory.

        Args:
            granularity: one mixture for each block (and one for the other tensors), or one for all.
            lr: learning rate of AdamW.
            epochs: passes over the held-out rows.
            temperature: whether a common factor of the logits is learned too.
            logits: initial logits [mixtures, models]; None: zeros, the uniform soup.

        Returns:
            The soup and its weights [mixtures, models].
        """
        mixture = _Mixture(self.members, granularity, logits)
        run, model = (
            self.evaluator.run,
            _Backward(self.evaluator.model, self.evaluator.run.objective),
        )
        base = {n: p.detach().clone() for n, p in self.evaluator.model.named_parameters()}
        base |= {n: self.base.weights[n].to(base[n].dtype) for n in self.base.weights if n in base}
        changes = {n: mixture.stack_changes(n, base[n].dtype) for n in mixture.group}
        trained = [mixture.logits, *([mixture.beta] if temperature else [])]
        optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
        loader = run.data.loader(
            "validation", run.tokenizer, batch_size=run.trainer.batch_size, seed=0, shuffle=True
        )
        for epoch in range(epochs):
            for rows in loader.list_batch_indices(epoch):
                weights = mixture.weights()
                mixed = {
                    f"model.{n}": base[n]
                    + torch.tensordot(weights[g].to(base[n].dtype), changes[n], 1)
                    for n, g in mixture.group.items()
                }
                optimizer.zero_grad()
                torch.func.functional_call(model, mixed, (loader.batch(rows),))
                optimizer.step()
        learned = mixture.weights().detach()
        return mix_deltas(self.members, mixture.group, learned), learned


def mix_deltas(members: Sequence[Delta], group: dict[str, int], weights: Tensor) -> Delta:
    """Return the weighted sum of deltas.

    Args:
        members: deltas of the models.
        group: tensor name -> row of `weights`.
        weights: [mixtures, models].
    """

    def read(name: str) -> Tensor:
        shares = weights[group[name]].double()
        return sum(
            (m.read(name) * w for m, w in zip(members, shares, strict=True)), torch.tensor(0.0)
        )

    return replace(members[0], read=read, history=(f"learned soup of {len(members)} models",))


class _Mixture:
    """Trained logits of the models for each group of tensors."""

    def __init__(
        self, members: Sequence[Delta], granularity: Granularity, logits: Tensor | None
    ) -> None:
        self.members = members
        source = members[0].source
        assert source is not None
        places = find_positions(source.anatomy, list(members[0].shapes))
        blocks = [0 if place is None else place[0] + 1 for place in places.values()]
        layered = granularity == "layer"
        self.group = {n: b if layered else 0 for n, b in zip(places, blocks, strict=True)}
        shape = (max(self.group.values()) + 1, len(members))
        self.logits = nn.Parameter(torch.zeros(shape) if logits is None else logits.clone())
        self.beta = nn.Parameter(torch.ones(()))

    def weights(self) -> Tensor:
        """Return the softmax of beta times the logits, [mixtures, models]."""
        return (self.beta * self.logits).softmax(-1)

    def stack_changes(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return a tensor's change in each model, [models, ...]."""
        return torch.stack([member.read(name).to(dtype) for member in self.members])


class _Backward(nn.Module):
    """Computes loss and backward in one call, because the loss is recomputed in chunks with mixed weights."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: dict[str, Any]) -> None:
        """Accumulate the gradient of the batch's mean loss in the logits."""
        self.objective(self.model, batch).values.mean().backward()
