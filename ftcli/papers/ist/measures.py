"""Measurements of the ist recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

USEFUL = (2, 5)
STEPS, INTERVAL = 60, 2


@measure
def useful_block_share(run: Path) -> float:
    """Chance that the first block drawn at the end is one of the two whose adapters can act.

    The adapters of all other blocks are scaled to 0 for a whole short training, with scores updated at
    every second step. A policy that learns nothing has a chance of 2 / blocks.
    """
    import torch

    from ftcli.papers.ist.scaling import damp_adapters
    from ftcli.reproduce.probe import rebuild_run

    short = {"max_steps": STEPS, "eval_first": False, "eval_every": None}
    fresh = rebuild_run(run, trainer=short, trainable={"interval": INTERVAL})
    fresh.load_model()
    fresh.evaluators = {}
    policy: Any = fresh.trainable
    policy.setup(fresh)
    blocks = policy.candidates.blocks
    with damp_adapters(fresh.model, [b for b in blocks if b not in USEFUL], 0.0):
        fresh.trainer.fit(fresh)
    weights = torch.sigmoid(-policy.scores)
    return float(sum(weights[blocks.index(b)] for b in USEFUL) / weights.sum())
