"""Finetuning from a base with the older base's change, beside finetuning from the base."""

from __future__ import annotations

from pathlib import Path

STEPS = 15  # a quarter of the run's


def transfer_head_start(run: Path) -> float:
    """Test loss after 15 steps from the transferred model minus that after 15 steps from the base."""
    from ftcli.papers.finetuning_transfer.transfer import transferred
    from ftcli.reproduce.deltas import opened, partner
    from ftcli.reproduce.measures.transfer_gain import SOURCE

    one, source = opened(run), opened(partner(run, SOURCE))
    starts = (transferred(source.delta, one.base), one.delta.scale(0.0).apply(one.base))
    moved, bare = (_after(run, dict(start.items())) for start in starts)
    return moved - bare


def _after(run: Path, start: dict) -> float:
    """Test loss of a model that was trained for some steps as the run was."""
    import torch

    from ftcli.reproduce.deltas import opened
    from ftcli.reproduce.probe import again

    fresh = again(run, trainer={"max_steps": STEPS, "eval_first": False, "eval_every": None})
    fresh.evaluators = {}
    with torch.no_grad():
        for name, parameter in fresh.model.named_parameters():
            parameter.copy_(start[name])
    fresh.trainer.fit(fresh)
    trained = {name: p.detach() for name, p in fresh.model.named_parameters()}
    return opened(run).loss_of(trained)
