"""What a training step needs beside a forward pass."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure


@measure
def step_memory_over_inference(run: Path) -> float:
    """Peak of the first step of the run, over the peak of a forward pass on its first micro-batch.

    Counted are all tensors that live, the model's among them, in one process for both.
    """
    from ftcli.models.decoding import judging
    from ftcli.reproduce.allocations import Allocations
    from ftcli.reproduce.probe import first_batch, loss_of, rebuild_run

    fresh = rebuild_run(run, trainer={"max_steps": 1, "eval_first": False, "eval_every": None})
    fresh.load_model()
    fresh.evaluators = {}
    fresh.objective.setup(fresh)
    batch = first_batch(fresh)
    with judging(fresh) as model, Allocations(fresh.model) as inference:
        loss_of(fresh, model, batch)
    with Allocations(fresh.model) as step:
        fresh.trainer.fit(fresh)
    return step.peak / inference.peak
