"""Whether a step changes tensors that a trainable policy has frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.core.callback import Callback, State
from ftcli.reproduce.measures import measure

STEPS = 12


@measure(exact=True)
def frozen_tensors_moved(run: Path) -> float:
    """Return the number of tensors without gradient that a step changed by any bit, summed over steps."""
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run, trainer={"max_steps": STEPS, "eval_first": False, "eval_every": None})
    fresh.evaluators = {}
    watch = _Watch()
    fresh.loggers = {"watch": watch}
    fresh.trainer.fit(fresh)
    return float(watch.moved)


class _Watch(Callback):
    """Compares what is frozen before and after each step."""

    def __init__(self) -> None:
        self.frozen: list[tuple[Any, Any]] = []
        self.moved = 0

    def before_step(self, state: State) -> None:
        parameters = [p for p in state.model.parameters() if not p.requires_grad]
        self.frozen = [(p, p.detach().clone()) for p in parameters]

    def after_step(self, state: State) -> None:
        self.moved += sum(not bool((p == before).all()) for p, before in self.frozen)
