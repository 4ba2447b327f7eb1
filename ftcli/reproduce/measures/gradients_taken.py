"""Whether a step goes backward."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def gradients_taken(run: Path) -> float:
    """Gradients of parameters that arrive during the first step of the run, one a tensor."""
    from ftcli.reproduce.probe import again

    fresh = again(run, trainer={"max_steps": 1, "eval_first": False, "eval_every": None})
    fresh.evaluators = {}
    arrived: list[int] = []
    for parameter in fresh.model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: arrived.append(p.numel()))
    fresh.trainer.fit(fresh)
    return float(len(arrived))
