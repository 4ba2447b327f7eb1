"""The reference model: what the pretrained model would say to the same batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.core.hooks import hooks_disabled
from ftcli.methods.calibration import as_base
from ftcli.objectives.base import Losses

if TYPE_CHECKING:
    from ftcli.core.run import Run

Mode = Literal["auto", "adapter_off", "separate"]

_copies: WeakKeyDictionary[Run, nn.Module] = WeakKeyDictionary()


class Reference:
    """The pretrained function, frozen, without dropout and without gradients.

    Where the method leaves the base as it was, that is the run's own model with the adapter switched
    off, at no memory. Where it does not (PiSSA and its like take a part out of it, full finetuning
    trains it), a second copy is read from the model's source, once a run; quantised weights are
    quantised there in the same way.

    Args:
        run: its model is not loaded before it is needed.
        mode: auto takes adapter_off where that is the pretrained function, else separate.

    Raises:
        UserError: adapter_off, and the base is not the pretrained model.
    """

    def __init__(self, run: Run, mode: Mode = "auto") -> None:
        if mode == "adapter_off" and not run.method.keeps_base:
            raise UserError(
                "with the adapter off this method's base is not the pretrained model.",
                where="method",
                fix="reference: separate, or a method that leaves the base as it is (method=lora)",
            )
        if mode == "auto":
            mode = "adapter_off" if run.method.keeps_base else "separate"
        self.run, self.mode = run, mode

    @contextmanager
    def model(self) -> Iterator[Any]:
        """The reference as a model, inside. Modes and what requires a gradient come back behind."""
        with torch.no_grad(), hooks_disabled():
            if self.mode == "separate":
                yield self._copy()
                return
            with as_base(self.run.model):
                yield self.run.model

    def __call__(self, batch: dict[str, Any]) -> Losses:
        """What the run's objective makes of the reference; its `head` may be called later."""
        with self.model() as model:
            losses = self.run.objective(model, batch)
        head = losses.head
        return losses if head is None else replace(losses, head=self._inside(head))

    def release(self) -> None:
        """Give a second copy's memory back; who asks again reads it again."""
        _copies.pop(self.run, None)

    def _inside(self, head: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The output layer as the reference has it: it may carry an adapter too."""

        def of_reference(hidden: Tensor) -> Tensor:
            with self.model():
                return head(hidden)

        return of_reference

    def _copy(self) -> nn.Module:
        if self.run not in _copies:
            _copies[self.run] = _pretrained(self.run)
        return _copies[self.run]


def _pretrained(run: Run) -> nn.Module:
    """The model as `Run` loads it, before the method has touched it."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)  # where the weights are new ones
        model: Any = run.model_source.load()
    if not getattr(model, "is_quantized", False):
        model = model.to(run.accelerator.device)
    model.requires_grad_(False)
    return model.eval()
