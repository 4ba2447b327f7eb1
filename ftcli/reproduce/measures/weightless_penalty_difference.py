"""Whether penalties of weight 0 leave training unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

STEPS = 3


@measure(exact=True)
def weightless_penalty_difference(run: Path) -> float:
    """Return the largest difference of trained values between all penalty weights 0 and no penalties."""
    from ftcli.config import load

    names = load(run / "config.yaml").config["penalty"]
    nothing: dict[str, Any] = dict.fromkeys(names)
    weightless = {name: {**node, "weight": 0.0} for name, node in names.items() if node}
    plain, other = (_train_weights(run, penalty) for penalty in (nothing, weightless))
    return max((plain[name] - other[name]).abs().max().item() for name in plain)


def _train_weights(folder: Path, penalty: dict[str, Any]) -> dict[str, Any]:
    from ftcli.reproduce.probe import rebuild_run

    steps = {"max_steps": STEPS, "eval_first": False, "eval_every": None}
    fresh = rebuild_run(folder, trainer=steps, penalty=penalty)
    fresh.evaluators = {}
    fresh.trainer.fit(fresh)
    return fresh.get_trained_tensors()
