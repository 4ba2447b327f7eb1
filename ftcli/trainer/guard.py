"""What is done about a step whose figures are not finite, or for which there is no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ftcli.core.allocator import OutOfMemory, is_oom
from ftcli.core.callback import Callback
from ftcli.core.errors import UserError
from ftcli.trainer.batch_dump import dump_batch
from ftcli.trainer.meter import NonFinite, Step, raise_if_nonfinite
from ftcli.trainer.rollback import Snapshot

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.trainer.loop import Batch, Loop
    from ftcli.trainer.trainer import Trainer

MAX_DUMPS = 8  # skipped batches that are written to disk


class RejectedStep(NonFinite):
    """Figures of a step that has not been taken, or can be undone."""


class Guard(Callback):
    """Follows `on_nonfinite` of the trainer: stop the run, or leave the step out.

    By default nothing is read from a device between two log lines: a step that was not finite is
    found when its figures are read, and no checkpoint is written before they are.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.batches: list[Batch] = []  # of the step that is being taken
        self.skipped = 0  # steps left out
        self.in_a_row = 0  # of these, since the last that was taken

    def setup(self, run: Run) -> None:
        """Refuse what a pipeline has no answer to: a client all of whose steps were left out.

        Raises:
            UserError: steps are to be skipped within rounds.
        """
        if self._skips and run.pipeline is not None:
            raise UserError(
                "trainer.on_nonfinite=skip is not supported in federated training.",
                where="trainer.on_nonfinite",
                fix="trainer.on_nonfinite=stop",
            )

    @contextmanager
    def watch(self, loop: Loop, batches: list[Batch]) -> Iterator[None]:
        """Blame what goes wrong in a step on its micro-batches; leave the step out where told to.

        Skipping costs a wait for the device a step, a copy of what the callbacks keep, and for
        an optimizer without gradients a copy of what is trained: its step cannot be judged before
        it is made.

        Raises:
            NonFinite: with its micro-batches; also after too many skipped steps in a row.
            OutOfMemory: in place of whatever an allocator raised.
        """
        self.batches, state = batches, loop.state
        before = Snapshot(loop) if self._skips else None
        try:
            yield
            self.in_a_row = 0
        except RejectedStep as error:
            assert before is not None
            error.batches = self.batches
            before.restore(loop)
            state.batch += len(batches)
            self._record_skip(loop, error)
        except NonFinite as error:
            error.batches = self.batches
            raise
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_oom(error):
                raise
            raise OutOfMemory(state.step + 1, self.batches, error) from error
        finally:
            self.batches = []

    def check_step(self, loop: Loop, loss: torch.Tensor, probe: torch.Tensor | None = None) -> None:
        """Where steps may be skipped, look before the weights move or can still be put back.

        The loss and the gradient are the same on all ranks, and so is the verdict.

        Args:
            probe: not finite where anything was not; None: the norm of the gradients.

        Raises:
            RejectedStep: not finite.
        """
        if not self._skips:
            return
        probed = "gradient norm" if probe is None else "sum of losses"
        probe = loop.gradient_norm() if probe is None else probe
        values = torch.stack([loss.detach().float(), probe.float().to(loss.device)]).tolist()
        rows = [batch["rows"] for batch in self.batches]
        try:
            raise_if_nonfinite(Step(loop.state.step + 1, values[0], rows, values[1], probed))
        except NonFinite as error:
            rejected = RejectedStep(error.what, error.value, Step(error.step, error.loss, rows))
            raise rejected from None

    def _record_skip(self, loop: Loop, error: RejectedStep) -> None:
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.skipped <= MAX_DUMPS:
            dump_batch(loop.run, error)
        figures = {"step": error.step, "what": error.what, "value": str(error.value)}
        loop.event("skipped", **figures, batch=error.folder and error.folder.name)
        if self.in_a_row > self.trainer.max_skipped:
            error.sentence = f"{self.in_a_row} steps in a row were skipped; {error.sentence}"
            raise error

    @property
    def _skips(self) -> bool:
        return self.trainer.on_nonfinite == "skip"

    def check_before_save(self, loop: Loop) -> None:
        """Make sure that what is about to be saved is finite.

        Raises:
            NonFinite: a figure of a step since the last log, or a trained weight, is not.
        """
        loop.meter.check_pending()
        finite = [torch.isfinite(p.detach()).all() for p in loop.parameters]
        if finite and not torch.stack([flag.to(finite[0].device) for flag in finite]).all():
            error = NonFinite("trained weight", float("nan"), loop.meter.last)
            error.sentence = f"a trained weight was not finite after step {error.step}"
            raise error

    @property
    def figures(self) -> dict[str, int]:
        """What a log line says of it: steps that were left out, where that may happen."""
        return {"skipped": self.skipped} if self._skips else {}

    def state_dict(self) -> dict[str, Any]:
        """How many steps were left out, once one was."""
        return {"skipped": self.skipped} if self.skipped else {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.skipped = saved.get("skipped", 0)
