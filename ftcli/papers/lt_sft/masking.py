"""Callbacks of a sparse phase: gradients of selected entries alone, and the L1 distance from the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftcli.core.callback import Callback, State
from ftcli.core.errors import UserError
from ftcli.objectives.base import Losses
from ftcli.optimizers.sparse_adamw import SparseAdamW
from ftcli.penalties.base import Penalty

if TYPE_CHECKING:
    from ftcli.core.run import Run

#: Optimizers in which an entry without gradient, moments and weight decay stays as it is, to the bit.
ENTRYWISE = (torch.optim.Adam, torch.optim.SGD, SparseAdamW)  # AdamW is a torch.optim.Adam


class GradientMask(Callback):
    """Sets the gradients of entries that are not selected to zero, before gradients are clipped.

    Args:
        masks: name of a parameter -> bool tensor of its shape; others are trained whole.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = masks

    def setup(self, run: Run) -> None:
        """Refuse optimizers that would move entries without a gradient.

        Raises:
            UserError: the optimizer has weight decay, or mixes the entries of a tensor.
        """
        optimizer = run.optimizer_builder.optimizer
        if not isinstance(optimizer, ENTRYWISE):
            what = f"{type(optimizer).__name__} may move entries that have no gradient."
            raise UserError(what, where="optimizer", fix="optimizer=adamw")
        if any(group["weight_decay"] for group in optimizer.param_groups):
            what = "weight decay would move entries that are not selected."
            raise UserError(what, "optimizer.weight_decay", "optimizer.weight_decay=0")

    def after_backward(self, state: State) -> None:
        """Mask the gradients of the whole step."""
        for name, parameter in state.model.named_parameters():
            if name in self.masks and parameter.grad is not None:
                parameter.grad.masked_fill_(~self.masks[name], 0.0)


@dataclass
class DistanceFromStart(Penalty):
    """Mean over all parameters of the model of |theta - theta_0| of those that are trained (LT-SFT, section 3.1).

    Here it has a gradient, sign(theta - theta_0) / N. In the authors' code (29f7872d) it has none: theta_0 is copied
    with its graph (`SparseFineTuner.__init__`), so that the derivatives of the two cancel.
    """

    weight: float = 0.1  # lambda, of both phases
    _start: list[tuple[nn.Parameter, Tensor]] = field(init=False, repr=False, default_factory=list)
    _count: int = field(init=False, repr=False, default=1)

    def setup(self, run: Run) -> None:
        """Copy the weights that training starts from."""
        parameters = list(run.model.parameters())
        self._start = [(p, p.detach().clone()) for p in parameters if p.requires_grad]
        self._count = sum(parameter.numel() for parameter in parameters)

    def __call__(self, model: nn.Module, batch: dict[str, Any], losses: Losses) -> Tensor:
        """Return the distance; it is the same for every micro-batch of a step."""
        distances = [(parameter - start).abs().sum() for parameter, start in self._start]
        return torch.stack(distances).sum() / self._count
