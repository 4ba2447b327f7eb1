"""The loss of one optimizer step, accumulated over its micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftcli.objectives.base import Losses, sum_by_source

if TYPE_CHECKING:
    from ftcli.core.run import Run


class StepLoss:
    """Computes objective and penalties over the micro-batches of a step.

    The denominator of the step is known before the first forward pass and the same on all ranks, so
    the sum over the micro-batches does not depend on how the batch was split into them.

    Args:
        all_reduce_sum: function that sums a number over all ranks.
        world_size: number of ranks.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        batches: Sequence[dict[str, Any]],
        all_reduce_sum: Callable[[float], float],
        world_size: int = 1,
    ) -> None:
        self.run, self.model, self.batches, self.world_size = run, model, batches, world_size
        self.denominator = all_reduce_sum(run.objective.denominator(batches))
        self.penalty_denominators = {
            name: all_reduce_sum(sum(penalty.size(batch) for batch in batches))
            for name, penalty in run.penalties.items()
        }
        self.metrics: dict[str, Tensor] = {}
        self.source_losses: dict[str, tuple[Tensor, Tensor]] = {}  # title -> sum, number of values
        self.evaluations = 0

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        """Return the share of one micro-batch in the loss of the step, a scalar with a gradient."""
        run = self.run
        self.evaluations += 1
        with run.autocast():
            for penalty in run.penalties.values():
                penalty.begin(batch)
            losses = run.objective(self.model, batch)
            loss = run.objective.numerator(losses) / self.denominator
            self._add_source_losses(losses, batch)
            for name, metric in losses.metrics.items():
                self._add_metric(name, metric / len(self.batches))
            for name, penalty in run.penalties.items():
                share = penalty.size(batch) / max(self.penalty_denominators[name], 1e-30)
                value = penalty(self.model, batch, losses) * share
                loss = loss + penalty.weight * value
                # metrics are averaged over ranks later, but shares have to be summed
                self._add_metric(f"penalty.{name}", value * self.world_size)
        return loss

    @torch.no_grad()
    def total(self) -> Tensor:
        """Return the loss of the whole step without a gradient; may be called repeatedly."""
        self.metrics, self.source_losses = {}, {}
        return torch.stack([self(batch).float() for batch in self.batches]).sum()

    def _add_source_losses(self, losses: Losses, batch: dict[str, Any]) -> None:
        titles = getattr(self.run.data, "titles", ())  # images have one source
        for title, parts in sum_by_source(losses, batch, titles).items():
            known = self.source_losses.get(title)
            added = parts if known is None else (known[0] + parts[0], known[1] + parts[1])
            self.source_losses[title] = added

    def _add_metric(self, name: str, value: Tensor) -> None:
        value = value.detach()
        self.metrics[name] = self.metrics[name] + value if name in self.metrics else value
