"""How many directions what SaRA learned spreads over."""

from __future__ import annotations

from pathlib import Path


def sara_rank(run: Path) -> float:
    """Effective rank exp(-sum p log p), p being the normalised singular values (Roy and Vetterli 2007).

    Mean over the matrices of trained entries that the nuclear penalty is drawn from.
    """
    import torch

    from ftcli.papers.sara.gathered import installed
    from ftcli.run.build import open_run

    trained = open_run(run)
    least = (trained.config.get("penalty") or {}).get("nuclear", {}).get("min_dim", 31)
    ranks = []
    for one in installed(trained.model).values():
        if len(one.shape) == 2 and min(one.shape) > least:
            values = torch.linalg.svdvals(one.matrix().detach().double())
            share = values / values.sum()
            ranks.append(torch.special.entr(share).sum().exp().item())
    return sum(ranks) / len(ranks)
