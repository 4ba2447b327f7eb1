"""SaRA (arXiv 2409.06633): the weights of smallest magnitude are trained, the others stay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.methods.base import refuse_names
from ftcli.methods.full import Full
from ftcli.optimizers.state import drop
from ftcli.papers.sara.gathered import Gathered, install, installed, plain, remove, weights

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.core.run import Run

POSITIONS = "positions"  # in a checkpoint: sums of the entries' positions, one a weight


class SaRA(Full):
    """Trains the entries |w| < threshold of every weight, norms and biases included.

    They are a vector a weight: gradients, moments and updates exist for them alone. Part of the way
    (`reselect_at`) those that have grown beyond the threshold keep what they learned and freeze, and the
    optimizer starts anew on the rest. A checkpoint holds the entries of the beginning in order; which
    they are follows from the base. The penalty `nuclear` goes with it.

    The official code lets the entries enter the first forward pass as |w| and skips an update where it
    selects anew; neither is followed.

    Args:
        threshold: magnitude below which an entry is trained (2e-3, 8e-4 or 2e-4 for Stable Diffusion).
        share: instead of it, the share of all entries that is to lie below the threshold.
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
                "entries are chosen by a threshold or by the share that lies below it.",
                where="method.threshold",
                fix="method.threshold=null method.share=0.1, or the threshold without the share",
            )
        for key, value in (("share", share), ("reselect_at", reselect_at)):
            if value is not None and not 0 < value < 1:
                raise UserError(f"{value} is no share between 0 and 1.", where=f"method.{key}")
        self._limit = 0.0  # the threshold that is meant
        self._optimizer: Any = None
        self._found: dict[str, Gathered] = {}

    def prepare(self, model: nn.Module) -> nn.Module:
        """Gather the entries that train and freeze the rest.

        Raises:
            UserError: the base is quantised, a pattern matches nothing, or nothing is that small.
        """
        super().prepare(model)
        found = weights(model, self._trained)
        chosen = self._choose({name: parameter for name, (parameter, _) in found.items()})
        model.requires_grad_(False)
        for name, indices in chosen.items():
            install(Gathered(name, found[name][0], indices), found[name][1])
        return model

    def setup(self, run: Run) -> None:
        """Remember what trains and the optimizer, whose state a new selection drops.

        Raises:
            UserError: there are several processes, which gather gradients by their size.
        """
        self._optimizer, self._found = run.optimizer.optimizer, installed(run.model)
        if self.reselect_at is not None and run.accelerator.num_processes > 1:
            raise UserError(
                "selecting again changes the size of what is trained, which several processes "
                "cannot follow.",
                where="method.reselect_at",
                fix="method.reselect_at=null, or one process",
            )

    def before_step(self, state: State) -> None:
        """Select again when it is time."""
        if self.reselect_at is None or state.step != round(self.reselect_at * state.max_steps):
            return
        for one in self._found.values():
            one.keep(one.values.abs() < self._limit)
            drop(self._optimizer, [one.values])

    def state_dict(self) -> dict[str, Any]:
        """Which entries of the beginning still train, once some do not."""
        if all(len(one.indices) == len(one.first) for one in self._found.values()):
            return {}
        return {name: one.slots() for name, one in self._found.items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on with these."""
        for name, one in self._found.items():
            chosen = torch.zeros(len(one.indices), dtype=torch.bool, device=one.indices.device)
            chosen[saved[name].to(chosen.device)] = True
            one.keep(chosen)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Values of the entries of the beginning [k], a float32 vector a weight, and a check."""
        found = installed(model)
        return {name: one.beginning() for name, one in found.items()} | {POSITIONS: _sums(found)}

    def load_state(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Put the values at the entries that this base selects.

        Raises:
            UserError: they are those of another base, threshold or model.
        """
        found = installed(model)
        names = {*found, POSITIONS}
        refuse_names(sorted(names - tensors.keys()), sorted(tensors.keys() - names))
        if not torch.equal(tensors[POSITIONS].cpu(), _sums(found)):
            raise UserError(
                "the checkpoint's entries are not those that lie below the threshold here: it was "
                "trained on another base, or with another threshold.",
                where="method.threshold",
            )
        for name, one in found.items():
            one.load(tensors[name])

    def describe(self) -> dict[str, Any]:
        """The threshold and the patterns."""
        return {"method": "sara", "threshold": self._limit, "train": self.train}

    def merge(self, model: nn.Module) -> nn.Module:
        """The plain model: the values are in its weights already."""
        remove(model)
        return model

    def save(self, model: Any, folder: str | Path) -> None:
        """Write the whole model, readable without ftcli."""
        with plain(model):
            super().save(model, folder)

    def _choose(self, found: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """Name of a weight -> the positions of its entries that train; weights without any left out."""
        if self.share is not None and any(p.is_meta for p in found.values()):
            return {n: _as_many(p, self.share) for n, p in found.items()}
        self._limit = self.threshold if self.threshold is not None else below(found, self.share)
        chosen = {n: _positions(p.detach().abs() < self._limit) for n, p in found.items()}
        chosen = {name: indices for name, indices in chosen.items() if len(indices)}
        if not chosen:
            raise UserError(
                f"no entry of {len(found)} weights is smaller than {self._limit:g}.",
                where="method.threshold",
                fix="method.threshold=null method.share=0.1",
            )
        return chosen


def below(found: dict[str, nn.Parameter], share: float | None) -> float:
    """The magnitude that this share of all entries is smaller than."""
    magnitudes = torch.cat([p.detach().abs().float().reshape(-1) for p in found.values()])
    count = max(1, math.floor((share or 0.0) * len(magnitudes)))
    return float(magnitudes.kthvalue(min(count + 1, len(magnitudes))).values)


def default_rate(threshold: float) -> float:
    """The learning rate that the official code takes where none is given: 1e-3 exp(-350 threshold)."""
    return 1e-3 * math.exp(-350 * threshold)


def _positions(mask: Tensor) -> Tensor:
    wide = mask.numel() >= 2**31
    return mask.reshape(-1).nonzero().view(-1).to(torch.int64 if wide else torch.int32)


def _as_many(weight: Tensor, share: float) -> Tensor:
    """As many positions as the share says, where there are no values to judge by."""
    count = max(1, math.floor(share * weight.numel()))
    return torch.empty(count, dtype=torch.int32, device=weight.device)


def _sums(found: dict[str, Gathered]) -> Tensor:
    """Sums of the positions of the beginning, int64 [weights]."""
    sums = [int(one.first.long().sum()) for one in found.values()]
    return torch.tensor(sums, dtype=torch.int64)
