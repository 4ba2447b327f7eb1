"""Detection of loss spikes, and rollback to the checkpoint before them."""

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
    from ftcli.trainer.context import TrainingContext
    from ftcli.trainer.trainer import Trainer

WINDOW = 100  # number of logged losses that a new one is compared with
MIN_LOSSES = 8  # number of logged losses below which nothing counts as a spike
MAD_TO_STD = (
    1.4826  # standard deviation of a normal distribution over its median absolute deviation
)
MIN_SPREAD = (
    0.01  # least spread as a share of the median: with equal losses any deviation would be a spike
)


class Spikes(Callback):
    """Applies `trainer.on_spike`: check the loss of every log line, and roll back after a spike."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.rollbacks = 0
        self.losses: list[float] = []  # the last logged losses without spikes
        self.logged = 0  # step of the last log
        self.spike: dict[str, float] | None = (
            None  # loss and limit of the last log line if it is a spike
        )
        self._healthy = 0  # step of the log line before the last

    def setup(self, run: Run) -> None:
        """Refuse `on_spike=rollback` in a pipeline, which would ignore it.

        Raises:
            UserError: a pipeline runs the steps, and it cannot roll back.
        """
        if self.trainer.on_spike == "rollback" and run.pipeline is not None:
            raise UserError(
                "trainer.on_spike=rollback is not supported in federated training.",
                where="trainer.on_spike",
                fix="trainer.on_spike=ignore",
            )

    def on_log(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Compare the loss of a log line with those before it.

        A spike is `spike_factor` standard deviations above the centre of the last `WINDOW` losses,
        both estimated robustly: the median, and 1.4826 times the median absolute deviation.
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

    def roll_back_after_spike(
        self, context: TrainingContext, checkpoints: Checkpoints | None
    ) -> bool:
        """Restore the last checkpoint before a spike, if there was one; return whether that was done.

        The position in the data is not restored: PaLM (arXiv 2204.02311, section 5.1) also restarts
        from before a spike and skips the batches that led to it, after which it does not recur.
        """
        if self.trainer.on_spike == "ignore":
            return False
        spike = context.broadcast_from_main(self.spike)
        if spike is None:
            return False
        target = self._find_checkpoint(checkpoints) if context.accelerator.is_main_process else None
        target = context.broadcast_from_main(target)
        if target is None or self.rollbacks >= self.trainer.max_rollbacks:
            self._append_loss(spike["loss"])  # without a rollback the loss may stay at this level
            context.append_event("spike", step=context.state.step, **spike)
            return False
        step = context.state.step
        self._restore_state(context, target)
        if context.accelerator.is_main_process and context.run.dir is not None:
            assert checkpoints is not None
            checkpoints.prepare_folder(context, target)  # removes the checkpoints of later steps
            saved = json.loads((target / "state.json").read_text(encoding="utf-8"))
            context.run.dir.rewind(saved["lines"], saved["step"])
        context.append_event("rollback", step=step, to=context.state.step, **spike)
        context.accelerator.wait_for_everyone()
        context.meter.begin()
        return True

    def _find_checkpoint(self, checkpoints: Checkpoints | None) -> Path | None:
        """Return the newest checkpoint that is no later than the last log line without a spike."""
        whole = checkpoints.list_complete() if checkpoints is not None else []
        sound = [path for path in whole if step_of(path) <= self._healthy]
        return max(sound, key=step_of, default=None)

    def _restore_state(self, context: TrainingContext, target: Path) -> None:
        state = context.state
        position, rollbacks, skipped = (
            (state.epoch, state.batch),
            self.rollbacks,
            context.guard.skipped,
        )
        restore_checkpoint(context, target)
        state.epoch, state.batch = position
        self.rollbacks, context.guard.skipped = rollbacks + 1, skipped

    def _append_loss(self, loss: float) -> None:
        self.losses = [*self.losses, loss][-WINDOW:]

    def state_dict(self) -> dict[str, Any]:
        """Return the number of rollbacks and the recent losses; empty while there are none."""
        if not (self.losses or self.rollbacks):
            return {}
        return {"rollbacks": self.rollbacks, "losses": list(self.losses), "logged": self.logged}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the number of rollbacks and the recent losses."""
        self.rollbacks, self.logged = saved.get("rollbacks", 0), saved.get("logged", 0)
        self.losses = list(saved.get("losses", []))


def spike_limit(losses: Sequence[float], factor: float) -> float:
    """Return the loss above which a log line is a spike; infinite below `MIN_LOSSES` losses."""
    if len(losses) < MIN_LOSSES:
        return math.inf
    middle = median(losses)
    spread = MAD_TO_STD * median(abs(loss - middle) for loss in losses)
    return middle + factor * max(spread, MIN_SPREAD * abs(middle))
