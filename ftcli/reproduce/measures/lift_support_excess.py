"""Whether LIFT trains as many entries as its budget says, and no others."""

from __future__ import annotations

from pathlib import Path

EXACT = True
STEPS = 3


def lift_support_excess(run: Path) -> float:
    """Over all matrices, entries too many or too few in the support, plus entries outside it that
    real steps between two choices have changed, plus entries of other tensors that have."""
    from ftcli.papers.lift.trainable import budget
    from ftcli.reproduce.probe import again

    length = {"max_steps": STEPS, "eval_first": False, "eval_every": None}
    fresh = again(run, trainer=length, trainable={"interval": None})
    fresh.evaluators = {}
    before = {name: p.detach().clone() for name, p in fresh.model.named_parameters()}
    fresh.trainer.fit(fresh)
    wrong = 0
    for name, parameter in fresh.model.named_parameters():
        moved = (parameter != before[name]).flatten()
        support = fresh.optimizer.optimizer.support(parameter)
        if support is not None:
            wrong += abs(len(support) - budget(parameter, fresh.trainable.rank))
            moved[support] = False
        wrong += int(moved.sum())
    return float(wrong)
