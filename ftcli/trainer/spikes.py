"""Losses that jump, and going back to the checkpoint before they did."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ftcli.core.callback import Callback, State
from ftcli.core.errors import UserError
from ftcli.trainer.manifest import step_of
from ftcli.trainer.rollback import restore_checkpoint

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.trainer.checkpoint import Checkpoints
    from ftcli.trainer.loop import Loop
    from ftcli.trainer.trainer import Trainer

WINDOW = 100  # logged losses that a new one is compared with
MIN_LOSSES = 8  # of them, before anything is called a spike
MAD_TO_STD = 1.4826  # a normal distribution's standard deviation in median absolute deviations
MIN_SPREAD = 0.01  # share of the median: equal losses would make anything a spike


class Spikes(Callback):
    """Follows `on_spike` of the trainer: look at the loss of every log line, and roll back."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.rollbacks = 0
        self.losses: list[float] = []  # logged lately, spikes left out
        self.logged = 0  # step of the last log
        self.spike: dict[str, float] | None = None  # what the last log says, if it is one
        self._healthy = 0  # step of the log before

    def setup(self, run: Run) -> None:
        """Refuse what would be ignored.

        Raises:
            UserError: a pipeline arranges the steps, and knows no way back.
        """
        if self.trainer.on_spike == "rollback" and run.pipeline is not None:
            raise UserError(
                "trainer.on_spike=rollback is not supported in federated training.",
                where="trainer.on_spike",
                fix="trainer.on_spike=ignore",
            )

    def on_log(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Compare the loss of a line with those of the lines before.

        A spike is `spike_factor` standard deviations above the middle of the last `WINDOW` lines,
        both by their robust estimates: the median, and 1.4826 times the median absolute deviation.
        Seven standard deviations from a rolling average is what arXiv 2501.00656 counts as a spike.
        """
        self._healthy, self.logged, self.spike = self.logged, state.step, None
        if self.trainer.on_spike == "ignore" or "loss" not in metrics:
            return
        loss = float(metrics["loss"])
        limit = spike_limit(self.losses, self.trainer.spike_factor)
        if loss > limit:
            self.spike = {"loss": loss, "limit": limit}
        else:
            self._append_loss(loss)

    def roll_back(self, loop: Loop, checkpoints: Checkpoints | None) -> bool:
        """After a spike, go back to the last checkpoint from before it; whether that was done.

        The data go on after the spike: arXiv 2204.02311 (section 5.1) restarts from before one and
        leaves out the batches that led to it, after which the loss does not jump there again.
        """
        if self.trainer.on_spike == "ignore":
            return False
        spike = loop.broadcast_from_main(self.spike)
        if spike is None:
            return False
        target = self._find_checkpoint(checkpoints) if loop.accelerator.is_main_process else None
        target = loop.broadcast_from_main(target)
        if target is None or self.rollbacks >= self.trainer.max_rollbacks:
            self._append_loss(spike["loss"])  # where it cannot be undone, it may be a new level
            loop.event("spike", step=loop.state.step, **spike)
            return False
        step = loop.state.step
        self._restore(loop, target)
        if loop.accelerator.is_main_process and loop.run.dir is not None:
            assert checkpoints is not None
            checkpoints.prepare_folder(loop, target)  # those of the steps that are undone go
            saved = json.loads((target / "state.json").read_text(encoding="utf-8"))
            loop.run.dir.rewind(saved["lines"], saved["step"])
        loop.event("rollback", step=step, to=loop.state.step, **spike)
        loop.accelerator.wait_for_everyone()
        loop.meter.begin()
        return True

    def _find_checkpoint(self, checkpoints: Checkpoints | None) -> Path | None:
        """The newest checkpoint that is not younger than the last log without a spike."""
        whole = checkpoints.finished() if checkpoints is not None else []
        sound = [path for path in whole if step_of(path) <= self._healthy]
        return max(sound, key=step_of, default=None)

    def _restore(self, loop: Loop, target: Path) -> None:
        state = loop.state
        position, rollbacks, skipped = (
            (state.epoch, state.batch),
            self.rollbacks,
            loop.guard.skipped,
        )
        restore_checkpoint(loop, target)
        state.epoch, state.batch = position
        self.rollbacks, loop.guard.skipped = rollbacks + 1, skipped

    def _append_loss(self, loss: float) -> None:
        self.losses = [*self.losses, loss][-WINDOW:]

    def state_dict(self) -> dict[str, Any]:
        """Rollbacks so far and recent losses, once there are any."""
        if not (self.losses or self.rollbacks):
            return {}
        return {"rollbacks": self.rollbacks, "losses": list(self.losses), "logged": self.logged}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.rollbacks, self.logged = saved.get("rollbacks", 0), saved.get("logged", 0)
        self.losses = list(saved.get("losses", []))


def spike_limit(losses: Sequence[float], factor: float) -> float:
    """The loss above which a line is a spike; infinite while there are too few to compare with."""
    if len(losses) < MIN_LOSSES:
        return math.inf
    middle = median(losses)
    spread = MAD_TO_STD * median(abs(loss - middle) for loss in losses)
    return middle + factor * max(spread, MIN_SPREAD * abs(middle))
