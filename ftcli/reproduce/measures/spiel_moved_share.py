"""How much of a sparse delta's support training has replaced."""

from __future__ import annotations

from pathlib import Path


def spiel_moved_share(run: Path) -> float:
    """Share of the positions after training that were not among the random ones of the start."""
    import torch

    from ftcli.papers.spiel.tuner import SpIELLinear
    from ftcli.reproduce.probe import again
    from ftcli.run.build import open_run

    supports = [
        [m.spiel_indices["default"] for m in model.modules() if isinstance(m, SpIELLinear)]
        for model in (open_run(run).model, again(run).model)
    ]
    pairs = list(zip(*supports, strict=True))
    new = sum(int((~torch.isin(after, before)).sum()) for after, before in pairs)
    return new / sum(len(after) for after, _ in pairs)
