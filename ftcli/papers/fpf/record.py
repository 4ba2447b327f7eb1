"""Accuracies of all tasks after each of them, and what was forgotten."""

from __future__ import annotations

from typing import Any

from ftcli.core.callback import Callback
from ftcli.core.errors import UserError


class TaskRecord(Callback):
    """The matrix of accuracies in percent.

    Args:
        steps: number of steps of the stream, which a resumed run must have too.

    Attributes:
        rows: after each task the accuracy of every task, before a phase at the same step.
        final: accuracy of every task after the last phase; None where there was none.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.rows: list[list[float]] = []
        self.final: list[float] | None = None

    def add(self, accuracies: list[float]) -> None:
        """Add the accuracies after a task."""
        self.rows.append(accuracies)

    def describe(self) -> dict[str, float]:
        """Return `stream_accuracy` and `stream_forgetting` before the last phase, `forgetting` after it.

        Forgetting is the mean over all tasks but the last of the best accuracy that a task has had minus
        the final one (Chaudhry et al. 2018, arXiv 1801.10112).
        """
        if not self.rows:
            return {}
        last = self.rows[-1]
        figures = {"stream_accuracy": sum(last) / len(last)}
        if len(self.rows) > 1:
            figures["stream_forgetting"] = self._measure_forgetting(last)
            figures["forgetting"] = self._measure_forgetting(self.final or last)
        return figures

    def _measure_forgetting(self, final: list[float]) -> float:
        old = range(len(self.rows) - 1)
        return sum(max(row[task] for row in self.rows) - final[task] for task in old) / len(old)

    def state_dict(self) -> dict[str, Any]:
        """Return the matrix so far, and the last accuracies."""
        return {"rows": [list(row) for row in self.rows], "final": self.final, "steps": self.steps}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            UserError: the stream had another length, so that its tasks began at other steps.
        """
        if saved["steps"] != self.steps:
            raise UserError(
                f"a stream of {saved['steps']} steps cannot go on as one of {self.steps}: tasks and phases "
                "would lie elsewhere.",
                where="trainer.max_steps",
                fix=f"trainer.max_steps={saved['steps']}",
            )
        self.rows, self.final = saved["rows"], saved["final"]
