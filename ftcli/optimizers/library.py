"""An optimizer of torch or another library, with parameter groups, a fallback and a base learning rate."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ftcli.config.classpath import ClassPath, fetch_subclass
from ftcli.core.callback import Callback
from ftcli.core.errors import UserError, missing_package

#: Packages that an optimizer may come from -> the extra of ftcli that installs it.
EXTRAS = {"schedulefree": "schedulefree"}


class LibraryOptimizer(Callback):
    """Builds an optimizer class from its dotted name; further keys are arguments of that class.

    Args:
        optimizer_class: such as torch.optim.AdamW or bitsandbytes.optim.PagedAdamW32bit.
        lr: base learning rate, which is multiplied with the scheduler's factor.
        weight_decay: weight decay of matrices; vectors (biases, norms) have none.
        fallback: class used instead on devices other than CUDA, with the same options.
    """

    def __init__(
        self,
        optimizer_class: ClassPath = "torch.optim.AdamW",
        lr: float = 2e-4,
        weight_decay: float = 0.0,
        fallback: ClassPath | None = None,
        **options: Any,
    ) -> None:
        self.optimizer_class, self.fallback = optimizer_class, fallback
        self.lr, self.weight_decay, self.options = lr, weight_decay, options
        self.optimizer: Any = None
        self.fallback_warning: str | None = None  # None where the fallback is not used
        self._saved_training_weights: list[Tensor] = []

    def build(
        self, named_parameters: Iterable[tuple[str, nn.Parameter]], device: torch.device | str
    ) -> torch.optim.Optimizer:
        """Build the optimizer over these parameters; each group stores its base rate as `initial_lr`.

        Raises:
            UserError: there is nothing to train, no such class, or the class has no such option.
        """
        groups = self.groups(list(named_parameters))
        self.optimizer = self._make(groups, torch.device(device))
        self._saved_training_weights = []
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.restore_training_weights()
        return self.optimizer

    def groups(self, named: Sequence[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Return groups of (name, parameter) pairs: matrices with weight decay, vectors without; none is empty."""
        if not named:
            raise UserError(
                "nothing is trainable, so there is nothing to optimise.", where="method"
            )
        matrices = [(name, p) for name, p in named if p.dim() >= 2]
        vectors = [(name, p) for name, p in named if p.dim() < 2]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def setup(self, run: Any) -> None:
        """Record the use of the fallback as an event of the run."""
        if self.fallback_warning and run.dir is not None:
            run.dir.append_event("warning", text=self.fallback_warning)

    def swap_in_eval_weights(self) -> None:
        """Put in the averaged weights of a schedule-free optimizer for evaluating and saving."""
        if self._switches() and not self._saved_training_weights:
            self._saved_training_weights = [p.detach().clone() for p in self._parameters()]
            self.optimizer.eval()

    def restore_training_weights(self) -> None:
        """Put the weights in training back, restored to the bit."""
        if self._switches():
            self.optimizer.train()
            for parameter, value in zip(
                self._parameters(), self._saved_training_weights, strict=False
            ):
                parameter.data.copy_(value)
            self._saved_training_weights = []

    def state_dict(self) -> dict[str, Any]:
        """Return the weights in training, if the checkpoint holds others for evaluation; else an empty mapping."""
        if not self._switches():
            return {}
        values = self._saved_training_weights or [p.detach() for p in self._parameters()]
        return {"training": list(values)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the weights in training."""
        for parameter, value in zip(self._parameters(), saved["training"], strict=True):
            parameter.data.copy_(value)

    def _switches(self) -> bool:
        return callable(getattr(self.optimizer, "eval", None))

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _make(self, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
        path = self.optimizer_class
        if self.fallback and device.type != "cuda":
            self.fallback_warning = (
                f"{path} is for CUDA; on {device.type} {self.fallback} takes its place"
            )
            warnings.warn(self.fallback_warning, stacklevel=3)
            path = self.fallback
        options = dict(self.options)
        if path == "torch.optim.AdamW" and device.type in ("cuda", "cpu"):
            options.setdefault("fused", True)
        kind = _class(path)
        if not getattr(kind, "takes_names", False):
            groups = [{**group, "params": [p for _, p in group["params"]]} for group in groups]
        try:
            return kind(groups, lr=self.lr, **options)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: {error}", where="optimizer") from error


def _class(path: str) -> Any:
    """Import the class of a dotted name."""
    where = "optimizer.optimizer_class"
    try:
        return fetch_subclass(path, torch.optim.Optimizer, where, "optimizer of torch")
    except ModuleNotFoundError as error:
        package = path.split(".")[0]
        if error.name == package and package in EXTRAS:
            raise missing_package(package, EXTRAS[package], path) from error
        raise UserError(f"there is no {path}.", where, f"ftcli schema {where}") from error
