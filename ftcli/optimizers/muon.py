"""Muon for matrices and AdamW for all other parameters, as one optimizer with one state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch.optim import AdamW
from torch.optim import Muon as MatrixMuon
from torch.optim.optimizer import Optimizer

from ftcli.optimizers.closure import evaluate_closure


class Muon(Optimizer):
    """torch.optim.Muon on two-dimensional tensors, AdamW on all others.

    Muon (Jordan et al. 2024) updates by the orthogonalised momentum. Its step is scaled to the size of
    AdamW's (arXiv 2502.16982, section 2.2), so that both take the same learning rate. Embeddings and
    output layers are tables of vectors, not linear maps: AdamW updates them, selected by name.

    Args:
        params: parameters or (name, parameter) pairs, or groups of them with their own lr and
            weight_decay.
        betas: betas of AdamW.
        eps: eps of AdamW.
        adamw: patterns of the names of matrices that AdamW updates.
    """

    takes_names = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-4,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adamw: Sequence[str] = ("*embed*", "*wte*", "*wpe*", "*lm_head*"),
    ) -> None:
        self._adamw = tuple(adamw)
        matrix = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
        matrix["adjust_lr_fn"] = "match_rms_adamw"  # type: ignore[assignment]
        self._kinds: dict[bool, tuple[Any, dict[str, Any]]] = {
            True: (MatrixMuon, matrix),
            False: (AdamW, {"betas": tuple(betas), "eps": eps}),
        }
        groups = [
            part
            for group in _as_groups(params)
            for part in self._split({"lr": lr, "weight_decay": weight_decay, **group})
        ]
        super().__init__(groups, {})

    def _split(self, group: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Yield the part of a group for each of the two optimizers, with its options."""
        for of_matrices, (kind, options) in self._kinds.items():
            named = [
                entry if isinstance(entry, tuple) else ("", entry) for entry in group["params"]
            ]
            chosen = [p for name, p in named if self._is_matrix(name, p) == of_matrices]
            if chosen:
                inner = kind([{**group, "params": chosen}], **options)
                yield {**inner.param_groups[0], "of_matrices": of_matrices}

    def _is_matrix(self, name: str, parameter: torch.Tensor) -> bool:
        return parameter.dim() == 2 and not any(fnmatchcase(name, p) for p in self._adamw)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with both optimizers."""
        loss = evaluate_closure(closure)
        for group in self.param_groups:
            kind, options = self._kinds[group["of_matrices"]]
            inner = kind([{**group}], **options)
            inner.param_groups, inner.state = [group], self.state
            inner.step()
        return loss


def _as_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    entries = list(params)
    return entries if entries and isinstance(entries[0], dict) else [{"params": entries}]
