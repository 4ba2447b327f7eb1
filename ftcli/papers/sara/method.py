"""SaRA (arXiv 2409.06633): train the entries of smallest magnitude and freeze the others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.methods.base import check_names
from ftcli.methods.full import Full
from ftcli.optimizers.state import drop
from ftcli.papers.sara.entries import (
    TrainedEntries,
    find_entries,
    find_weights,
    install_entries,
    remove_entries,
    without_entries,
)

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.core.run import Run

POSITIONS = "positions"  # key in a checkpoint: sum of the entries' positions of each weight


class SaRA(Full):
    """Trains the entries |w| < threshold of every weight, norms and biases included.

    The entries of a weight are one vector: gradients, moments and updates exist for them alone. At the
    share `reselect_at` of the run, entries that have grown beyond the threshold are frozen with their
    current value, and the optimizer's state of the others is reset. A checkpoint holds the values of
    the first selection in order; their positions follow from the base. The penalty `nuclear` is the
    paper's regularisation.

    In the official code the first forward pass uses |w| for the entries, and a step that selects again
    has no update; neither is followed.

    Args:
        threshold: magnitude below which an entry is trained (2e-3, 8e-4 or 2e-4 for Stable Diffusion).
        share: alternative to `threshold`: the share of all entries that is below it.
        train: patterns of parameter names (`*.weight`); null considers every parameter.
        reselect_at: share of the run after which entries are selected again; null: never.
    """

    artefact: ClassVar[Literal["adapter", "model"]] = "model"
    formula: ClassVar[str] = "number of entries with |w| < threshold"

    def __init__(
        self,
        threshold: float | None = None,
        share: float | None = None,
        train: list[str] | None = None,
        reselect_at: float | None = 0.5,
    ) -> None:
        super().__init__(train)
        self.threshold, self.share, self.reselect_at = threshold, share, reselect_at
        if (threshold is None) == (share is None):
            raise UserError(
                "entries are selected by a threshold or by the share that is below it: give one.",
                where="method.threshold",
                fix="method.threshold=null method.share=0.1, or the threshold without the share",
            )
        for key, value in (("share", share), ("reselect_at", reselect_at)):
            if value is not None and not 0 < value < 1:
                raise UserError(f"{value} is not a share between 0 and 1.", where=f"method.{key}")
        self._limit = 0.0  # the threshold, given or computed from the share
        self._optimizer: Any = None
        self._entries: dict[str, TrainedEntries] = {}

    def prepare(self, model: nn.Module) -> nn.Module:
        """Make the selected entries trainable and freeze the others.

        Raises:
            UserError: the base is quantised, a pattern matches no parameter, or no entry is below the
                threshold.
        """
        super().prepare(model)
        weights = find_weights(model, self._trained)
        indices = self._choose_entries({name: weight for name, (weight, _) in weights.items()})
        model.requires_grad_(False)
        for name, positions in indices.items():
            weight, places = weights[name]
            install_entries(TrainedEntries(name, weight, positions), places)
        return model

    def setup(self, run: Run) -> None:
        """Store the trained entries, and the optimizer, whose state a second selection drops.

        Raises:
            UserError: entries are selected again and there are several processes, which exchange
                gradients of fixed size.
        """
        self._optimizer, self._entries = run.optimizer_builder.optimizer, find_entries(run.model)
        if self.reselect_at is not None and run.accelerator.num_processes > 1:
            raise UserError(
                "selecting entries again changes the size of the trained vectors, which is not "
                "possible with several processes.",
                where="method.reselect_at",
                fix="method.reselect_at=null, or one process",
            )

    def before_step(self, state: State) -> None:
        """Select entries again at the step of `reselect_at`."""
        if self.reselect_at is None or state.step != round(self.reselect_at * state.max_steps):
            return
        for entries in self._entries.values():
            entries.restrict(entries.values.abs() < self._limit)
            drop(self._optimizer, [entries.values])

    def state_dict(self) -> dict[str, Any]:
        """Return the slots of the entries still trained, by weight; empty before a second selection."""
        if all(len(e.indices) == len(e.initial_indices) for e in self._entries.values()):
            return {}
        return {name: entries.find_slots() for name, entries in self._entries.items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restrict the entries to those of a saved second selection."""
        for name, entries in self._entries.items():
            indices = entries.indices
            chosen = torch.zeros(len(indices), dtype=torch.bool, device=indices.device)
            chosen[saved[name].to(chosen.device)] = True
            entries.restrict(chosen)

    def get_trained_tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the values [k] of the first selection by weight, float32, and sums of positions."""
        by_name = find_entries(model)
        values = {name: entries.all_values() for name, entries in by_name.items()}
        return values | {POSITIONS: _sum_positions(by_name)}

    def load_trained_tensors(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Load values into the entries selected in this base.

        Raises:
            UserError: the values are those of another base, threshold or model.
        """
        by_name = find_entries(model)
        names = {*by_name, POSITIONS}
        check_names(sorted(names - tensors.keys()), sorted(tensors.keys() - names))
        if not torch.equal(tensors[POSITIONS].cpu(), _sum_positions(by_name)):
            raise UserError(
                "the checkpoint's entries are not those below the threshold in this base: it was "
                "trained on another base, or with another threshold.",
                where="method.threshold",
            )
        for name, entries in by_name.items():
            entries.load(tensors[name])

    def describe(self) -> dict[str, Any]:
        """Return the threshold and the patterns."""
        return {"method": "sara", "threshold": self._limit, "train": self.train}

    def merge(self, model: nn.Module) -> nn.Module:
        """Return the plain model, with the values written into its weights."""
        remove_entries(model)
        return model

    def save(self, model: Any, folder: str | Path) -> None:
        """Write the whole model, readable without ftcli."""
        with without_entries(model):
            super().save(model, folder)

    def _choose_entries(self, weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return the positions of the selected entries by weight, without weights that have none."""
        if self.share is not None and any(p.is_meta for p in weights.values()):
            return {n: _meta_positions(p, self.share) for n, p in weights.items()}
        threshold = self.threshold
        self._limit = find_threshold(weights, self.share) if threshold is None else threshold
        positions = {n: _find_positions(p.detach().abs() < self._limit) for n, p in weights.items()}
        positions = {name: indices for name, indices in positions.items() if len(indices)}
        if not positions:
            raise UserError(
                f"no entry of {len(weights)} weights is smaller than {self._limit:g}.",
                where="method.threshold",
                fix="method.threshold=null method.share=0.1",
            )
        return positions


def find_threshold(weights: dict[str, nn.Parameter], share: float | None) -> float:
    """Return the magnitude that this share of all entries is below."""
    magnitudes = torch.cat([p.detach().abs().float().reshape(-1) for p in weights.values()])
    count = max(1, math.floor((share or 0.0) * len(magnitudes)))
    return float(magnitudes.kthvalue(min(count + 1, len(magnitudes))).values)


def default_learning_rate(threshold: float) -> float:
    """Return the official code's default learning rate, 1e-3 exp(-350 threshold)."""
    return 1e-3 * math.exp(-350 * threshold)


def _find_positions(mask: Tensor) -> Tensor:
    wide = mask.numel() >= 2**31
    return mask.reshape(-1).nonzero().view(-1).to(torch.int64 if wide else torch.int32)


def _meta_positions(weight: Tensor, share: float) -> Tensor:
    """Return as many positions as the share gives, for a weight without values."""
    count = max(1, math.floor(share * weight.numel()))
    return torch.empty(count, dtype=torch.int32, device=weight.device)


def _sum_positions(by_name: dict[str, TrainedEntries]) -> Tensor:
    """Return the sum of the positions of the first selection of each weight, int64 [weights]."""
    sums = [int(entries.initial_indices.long().sum()) for entries in by_name.values()]
    return torch.tensor(sums, dtype=torch.int64)
