"""Handling of steps whose loss or gradient is not finite, and of memory that runs out in a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ftcli.core import ranks
from ftcli.core.allocator import OutOfMemory, is_oom
from ftcli.core.callback import Callback
from ftcli.core.errors import UserError
from ftcli.trainer.batch_dump import dump_batch
from ftcli.trainer.meter import NonFinite, Step, raise_if_nonfinite
from ftcli.trainer.rollback import Snapshot

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.trainer.context import Batch, TrainingContext
    from ftcli.trainer.trainer import Trainer

MAX_DUMPS = 8  # number of skipped batches that are written to disk


class RejectedStep(NonFinite):
    """A metric was not finite in a step that has not changed the weights yet or can be rolled back."""


class NonFiniteGuard(Callback):
    """Applies `trainer.on_nonfinite`: stop the run, or skip the step.

    With `stop` nothing is read from a device between two log lines: a step that was not finite is
    noticed when its metrics are read, and no checkpoint is written before that.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.batches: list[Batch] = []  # micro-batches of the current step
        self.skipped = 0  # steps skipped in the whole run
        self.in_a_row = 0  # steps skipped since the last completed one

    def setup(self, run: Run) -> None:
        """Refuse skipping in a pipeline: a client might skip all of its steps and have nothing to send.

        Raises:
            UserError: `on_nonfinite=skip` in a run with a pipeline.
        """
        if self._skips and run.pipeline is not None:
            raise UserError(
                "trainer.on_nonfinite=skip is not supported in federated training.",
                where="trainer.on_nonfinite",
                fix="trainer.on_nonfinite=stop",
            )

    @contextmanager
    def handle_step_errors(self, context: TrainingContext, batches: list[Batch]) -> Iterator[None]:
        """Attach the micro-batches to errors of the step in the block; with `on_nonfinite=skip`, roll it back.

        Skipping costs one device synchronisation a step, a copy of the state of the callbacks, and for
        a gradient-free optimizer a copy of the trained weights: it has moved them by the time its
        losses are known.

        Raises:
            NonFinite: with its micro-batches; also after more than `max_skipped` skipped steps in a row.
            OutOfMemory: in place of the error that the allocator raised.
        """
        self.batches, state = batches, context.state
        before = Snapshot(context) if self._skips else None
        try:
            yield
            self.in_a_row = 0
        except RejectedStep as error:
            assert before is not None
            error.batches = self.batches
            before.restore(context)
            state.batch += len(batches)
            self._record_skip(context, error)
        except NonFinite as error:
            error.batches = self.batches
            raise
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_oom(error):
                raise
            raise OutOfMemory(state.step + 1, self.batches, error) from error
        finally:
            self.batches = []

    def reject_step_if_skipping(
        self,
        context: TrainingContext,
        loss: torch.Tensor,
        check_value: torch.Tensor | None = None,
    ) -> None:
        """Reject a step that is not finite while it can be rolled back, if `on_nonfinite=skip`.

        Loss and gradient are the same on all ranks, so all ranks decide alike.

        Args:
            check_value: a scalar that is not finite if any value was not; None: the norm of the gradients.

        Raises:
            RejectedStep: the loss or the check_value is not finite.
        """
        if not self._skips:
            return
        check_name = "gradient norm" if check_value is None else "sum of losses"
        check_value = context.gradient_norm() if check_value is None else check_value
        values = torch.stack([loss.detach().float(), check_value.float().to(loss.device)]).tolist()
        rows = [batch["indices"] for batch in self.batches]
        try:
            raise_if_nonfinite(Step(context.state.step + 1, values[0], rows, values[1], check_name))
        except NonFinite as error:
            rejected = RejectedStep(error.what, error.value, Step(error.step, error.loss, rows))
            raise rejected from None

    def _record_skip(self, context: TrainingContext, error: RejectedStep) -> None:
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.skipped <= MAX_DUMPS:
            dump_batch(context.run, error)
        fields = {"step": error.step, "what": error.what, "value": str(error.value)}
        context.append_event("skipped", **fields, batch=error.folder and error.folder.name)
        if self.in_a_row > self.trainer.max_skipped:
            error.sentence = f"{self.in_a_row} steps in a row were skipped; {error.sentence}"
            raise error

    @property
    def _skips(self) -> bool:
        return self.trainer.on_nonfinite == "skip"

    def check_before_save(self, context: TrainingContext) -> None:
        """Check that metrics and trained weights are finite before a checkpoint is written.

        Raises:
            NonFinite: a metric of a step since the last log, or a trained weight, is not finite.
        """
        context.meter.check_pending()
        parts = [ranks.get_local_shard(p.detach()) for p in context.parameters]
        finite = [torch.isfinite(part).all() for part in parts]
        wrong = (
            bool(finite) and not torch.stack([flag.to(finite[0].device) for flag in finite]).all()
        )
        if context.sum_number_over_ranks(float(wrong)):
            error = NonFinite("trained weight", float("nan"), context.meter.last)
            error.sentence = f"a trained weight was not finite after step {error.step}"
            raise error

    @property
    def metrics(self) -> dict[str, int]:
        """Return the count of skipped steps for a log line; empty where no step may be skipped."""
        return {"skipped": self.skipped} if self._skips else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the count of skipped steps; empty while it is 0."""
        return {"skipped": self.skipped} if self.skipped else {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the count of skipped steps."""
        self.skipped = saved.get("skipped", 0)
