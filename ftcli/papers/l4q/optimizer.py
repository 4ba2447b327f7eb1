"""AdamW with rates of its own for the scales and offsets of L4Q."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from ftcli.config.classpath import ClassPath
from ftcli.optimizers.library import LibraryOptimizer

_log = logging.getLogger("ftcli.optimizers")


class ScaleRates(LibraryOptimizer):
    """An optimizer with further groups for `l4q_scale` and `l4q_offset`; other parameters have `lr`.

    Scales are of the order of 1e-2, so that a rate that suits LoRA wrecks them.

    Args:
        scale_lr: base rate of scales.
        offset_lr: base rate of offsets.
        optimizer_class, lr, weight_decay, fallback: as in LibraryOptimizer.
    """

    def __init__(
        self,
        scale_lr: float = 1e-5,
        offset_lr: float = 1e-5,
        optimizer_class: ClassPath = "torch.optim.AdamW",
        lr: float = 2e-4,
        weight_decay: float = 0.0,
        fallback: ClassPath | None = None,
        **options: Any,
    ) -> None:
        super().__init__(optimizer_class, lr, weight_decay, fallback, **options)
        self.rates = {"l4q_scale": scale_lr, "l4q_offset": offset_lr}

    def setup(self, run: Any) -> None:
        """Warn where the model has no scales, so that two rates are ignored."""
        super().setup(run)
        if not any(
            f".{kind}." in name for kind in self.rates for name, _ in run.model.named_parameters()
        ):
            _log.warning(
                "scale_lr and offset_lr are ignored: only method=l4q has scales and offsets"
            )

    def groups(self, named: Sequence[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Return the groups of LibraryOptimizer for factors, then one for scales and one for offsets."""
        taken: dict[str, list[tuple[str, nn.Parameter]]] = {kind: [] for kind in self.rates}
        rest: list[tuple[str, nn.Parameter]] = []
        for name, parameter in named:
            kind = next((k for k in self.rates if f".{k}." in name), None)
            (rest if kind is None else taken[kind]).append((name, parameter))
        groups = super().groups(rest) if rest or not named else []
        for kind, pairs in taken.items():
            if pairs:
                groups.append({"params": pairs, "weight_decay": 0.0, "lr": self.rates[kind]})
        return groups
