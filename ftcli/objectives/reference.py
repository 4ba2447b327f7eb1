"""The reference model: the pretrained model on the same batches."""

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
from ftcli.methods.calibration import switch_to_base
from ftcli.objectives.base import Losses

if TYPE_CHECKING:
    from ftcli.core.run import Run

Mode = Literal["auto", "adapter_off", "separate"]

_copies: WeakKeyDictionary[Run, nn.Module] = WeakKeyDictionary()


class Reference:
    """The pretrained model, frozen, without dropout and without gradients.

    Where the method leaves the base unchanged, it is the run's model with the adapter disabled and takes
    no memory. Where it does not (PiSSA and others change the base, full finetuning trains it), a second
    copy is loaded from the model's source, once a run, quantised in the same way.

    Args:
        run: the run; a second copy of its model is not loaded before it is needed.
        mode: auto takes adapter_off where that is the pretrained model, else separate.

    Raises:
        UserError: mode is adapter_off and the method changes the base.
    """

    def __init__(self, run: Run, mode: Mode = "auto") -> None:
        if mode == "adapter_off" and not run.method.keeps_base:
            raise UserError(
                "this method changes the base, so that without the adapter it is not the pretrained model.",
                where="method",
                fix="reference: separate, or a method that leaves the base unchanged (method=lora)",
            )
        if mode == "auto":
            mode = "adapter_off" if run.method.keeps_base else "separate"
        self.run, self.mode = run, mode

    @contextmanager
    def model(self) -> Iterator[Any]:
        """Give the reference inside the context; afterwards modes and requires_grad are restored."""
        with torch.no_grad(), hooks_disabled():
            if self.mode == "separate":
                yield self._copy()
                return
            with switch_to_base(self.run.model):
                yield self.run.model

    def __call__(self, batch: dict[str, Any]) -> Losses:
        """Return the losses of the run's objective under the reference; `head` may be called later."""
        with self.model() as model:
            losses = self.run.objective(model, batch)
        head = losses.head
        return losses if head is None else replace(losses, head=self._wrap_head(head))

    def release(self) -> None:
        """Free the second copy; the next use loads it again."""
        _copies.pop(self.run, None)

    def _wrap_head(self, head: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the output layer as a function that disables its adapter, if it has one."""

        def reference_head(hidden: Tensor) -> Tensor:
            with self.model():
                return head(hidden)

        return reference_head

    def _copy(self) -> nn.Module:
        if self.run not in _copies:
            _copies[self.run] = _load_pretrained(self.run)
        return _copies[self.run]


def _load_pretrained(run: Run) -> nn.Module:
    """Load the model as `Run` does, without the method."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)  # for weights that are new
        model: Any = run.model_source.load()
    if not getattr(model, "is_quantized", False):
        model = model.to(run.accelerator.device)
    model.requires_grad_(False)
    return model.eval()
