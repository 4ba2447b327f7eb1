"""Measurements of the petl_ast recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.core.run import Run

STEPS = 3


@measure(exact=True)
def adapter_start_difference(run: Path) -> float:
    """Largest difference in a training batch's outputs between the untrained adapter enabled and disabled."""
    import torch

    from ftcli.reproduce.probe import first_batch, rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    inputs = first_batch(fresh)["inputs"]
    model = fresh.model.eval()
    with torch.no_grad():
        adapted = model(**inputs).logits
        with model.disable_adapter():
            base = model(**inputs).logits
    return float((adapted - base).abs().max())


@measure(exact=True)
def tensors_without_gradient(run: Path) -> float:
    """Number of trained tensors, biases included, whose gradient is exactly 0 in all of the first steps."""
    from ftcli.core.callback import Callback
    from ftcli.reproduce.probe import rebuild_run

    still: set[str] = set()

    class Watch(Callback):
        def setup(self, run: Run) -> None:
            self.model = run.model
            still.update(n for n, p in run.model.named_parameters() if p.requires_grad)

        def after_backward(self, state: State) -> None:
            for name in list(still):
                gradient = self.model.get_parameter(name).grad
                if gradient is not None and bool(gradient.any()):
                    still.discard(name)

    fresh = rebuild_run(run, trainer={"max_steps": STEPS, "eval_first": False, "eval_every": None})
    fresh.evaluators = {}
    fresh.loggers["watch"] = Watch()
    fresh.trainer.fit(fresh)
    return float(len(still))
