"""Number of tensors of the frozen base that training changes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

STEPS = 3


@measure(exact=True)
def changed_base_tensors(run: Path) -> float:
    """Return the number of base tensors, packed codes and scales included, whose bytes differ after real steps."""
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run, trainer={"max_steps": STEPS, "eval_first": False, "eval_every": None})
    fresh.load_model()
    fresh.evaluators = {}
    before = _hashes(fresh.model)
    fresh.trainer.fit(fresh)
    after = _hashes(fresh.model)
    return float(sum(before[name] != after[name] for name in before))


def _hashes(model: Any) -> dict[str, str]:
    import torch

    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    tensors = {n: t for n, t in model.state_dict().items() if n not in trained}
    return {
        name: hashlib.sha256(
            t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, t in tensors.items()
        if isinstance(t, torch.Tensor) and t.numel()
    }
