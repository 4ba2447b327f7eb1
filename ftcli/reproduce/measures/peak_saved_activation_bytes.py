"""Memory that autograd saves for backward during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.core.callback import Callback, State
from ftcli.reproduce.measures import measure

STEPS = 8


@measure
def peak_saved_activation_bytes(run: Path) -> float:
    """Return the peak of saved bytes over the first steps of the run, without parameters."""
    return float(max(measure_peaks(run)))


def measure_peaks(folder: Path) -> list[int]:
    """Return the peak of saved bytes in each of the first steps."""
    from torch.autograd.graph import saved_tensors_hooks

    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(
        folder, trainer={"max_steps": STEPS, "eval_first": False, "eval_every": None}
    )
    fresh.load_model()
    fresh.evaluators = {}
    ledger = Ledger(fresh.model)
    fresh.loggers = {"saved": ledger}
    with saved_tensors_hooks(ledger.record, lambda kept: kept.tensor):
        fresh.trainer.fit(fresh)
    return ledger.peaks


class Ledger(Callback):
    """Storages of saved tensors, each counted once while any tensor on it is alive."""

    def __init__(self, model: Any) -> None:
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.holders: dict[int, int] = {}
        self.live = 0
        self.peaks: list[int] = []

    def before_step(self, state: State) -> None:
        """Start the peak of a new step."""
        self.peaks.append(0)

    def record(self, tensor: Any) -> SavedTensor:
        """Record a tensor that autograd saves; returns its holder."""
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        kept = SavedTensor(self, tensor, place, size)
        if place not in self.weights:
            self.holders[place] = self.holders.get(place, 0) + 1
            self.live += size if self.holders[place] == 1 else 0
            if self.peaks:
                self.peaks[-1] = max(self.peaks[-1], self.live)
        return kept

    def release(self, place: int, size: int) -> None:
        """Remove a tensor that backward has freed."""
        if place in self.holders:
            self.holders[place] -= 1
            if not self.holders[place]:
                del self.holders[place]
                self.live -= size


class SavedTensor:
    """A saved tensor that tells the ledger when it is freed."""

    def __init__(self, ledger: Ledger, tensor: Any, place: int, size: int) -> None:
        self.ledger, self.tensor, self.place, self.size = ledger, tensor, place, size

    def __del__(self) -> None:
        self.ledger.release(self.place, self.size)
