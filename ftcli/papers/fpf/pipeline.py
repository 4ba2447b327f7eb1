"""Continual training: tasks in sequence, with replay, FPF or k-FPF."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.trainer.ending import Outcome


@dataclass
class Continual:
    """Tasks one after the other, and finetuning of a few parameters on a buffer (arXiv 2304.04158).

    Each task has the same share of the steps, in as many passes as they take. A buffer takes a uniform sample of the
    stream. `phases` times, at equal intervals of steps and at the end, the groups of parameters that `groups`
    names are finetuned on the buffer, and all others stay as they are: 1 is FPF, more are
    k-FPF. With objective=replay_classification and a `kd_weight`, replayed examples are held to the logits
    that they had (k-FPF-KD).
    """

    tasks: int = 5  # the classes, or the sources of texts, are cut into so many
    buffer: int = 200  # rows that are held
    replay: bool = False  # add as many rows of the buffer to every batch (experience replay)
    phases: int = 0  # k, times that the groups are finetuned; 0: never
    groups: list[str] = field(default_factory=lambda: ["batchnorm", "last_linear"])  # or patterns
    top: float | None = (
        None  # in place of `groups`: share of parameters that move most between tasks
    )
    epochs: int = 20  # passes over the buffer in each phase
    lr: float = 0.03  # learning rate of a phase, by SGD without momentum
    batch_size: int = 32  # rows of the buffer in a step of a phase

    def __post_init__(self) -> None:
        for key in ("tasks", "buffer", "epochs", "lr", "batch_size"):
            if not getattr(self, key) > 0:
                raise UserError(f"{getattr(self, key)} is not positive.", where=f"pipeline.{key}")
        if self.phases < 0:
            raise UserError(f"{self.phases} phases cannot be.", "pipeline.phases", "0 or more")
        if self.top is not None and not 0 < self.top <= 1:
            raise UserError(
                f"{self.top} is not a share of the groups.", "pipeline.top", "above 0, at most 1"
            )

    def check(self, run: Run) -> None:
        """Refuse settings that a stream of tasks does not support.

        Raises:
            UserError: the setting, and what to use instead.
        """
        trainer = run.trainer
        if run.accelerator.num_processes > 1:
            raise UserError("the stream is of one process.", "pipeline", "train without -p")
        if run.trainable is not None:
            raise UserError(
                "a trainable policy and FPF would both choose what moves.",
                where="trainable",
                fix="~trainable",
            )
        if trainer.on_nonfinite == "skip" or trainer.on_spike == "rollback":
            raise UserError(
                "a step that is skipped or taken back would shift the stream against its phases.",
                where="trainer.on_nonfinite",
                fix="trainer.on_nonfinite=stop trainer.on_spike=ignore",
            )
        if trainer.gradient_accumulation_steps != 1 or getattr(run.data, "pairs", False):
            raise UserError(
                "a step of the stream is one batch of single rows.",
                where="trainer.gradient_accumulation_steps",
                fix="trainer.gradient_accumulation_steps=1, a larger trainer.batch_size",
            )

    def fit(self, run: Run, checkpoint: Path | None = None) -> Outcome:
        """Train `run` to the end, or until a stop is requested.

        Args:
            checkpoint: the folder to continue from.
        """
        from ftcli.papers.fpf.training import ContinualTraining

        return ContinualTraining(self, run).fit(checkpoint)
