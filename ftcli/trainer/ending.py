"""The end of training: the last evaluation, the checkpoint that records its best loss, and the outcome of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.trainer.checkpoint import Checkpoints
    from ftcli.trainer.context import TrainingContext


@dataclass
class Outcome:
    """Result of a fit: `finished` or `stopped by ...`, with the scores before and after training."""

    status: str
    state: State
    before: dict[str, float]
    after: dict[str, float]
    context: TrainingContext
    metrics: dict[str, float] = field(default_factory=dict)  # further ones for result.json


def end_training(
    context: TrainingContext, checkpoints: Checkpoints | None, took_steps: bool, best: bool = False
) -> dict[str, float]:
    """Evaluate after the last step, then save, so that the best loss of this evaluation is not lost.

    The steps are saved also where the evaluation fails or is interrupted; its error is raised then.

    Args:
        took_steps: whether this process took steps, which are not saved yet. Where not, a checkpoint
            is written only to record a new best loss.
        best: whether an evaluation at this step has found the best loss already.

    Returns:
        The scores under `eval.<score>`.

    Raises:
        NonFinite: a figure of a step since the last log, or a trained weight, is not finite.
    """
    trainer = context.run.trainer
    if took_steps:
        context.guard.check_before_save(context)
    try:
        scores = context.evaluate()
    except BaseException:
        # parts are written by all ranks, and the others may not have failed
        alone = not context.saves_shards or context.accelerator.num_processes == 1
        if took_steps and checkpoints is not None and alone and context.accelerator.is_main_process:
            checkpoints.save(context, required=False)
        raise
    best = trainer.update_best(context, scores) or best
    if took_steps or (best and context.state.step):
        trainer.save(context, checkpoints, best, required=took_steps)
    return scores
