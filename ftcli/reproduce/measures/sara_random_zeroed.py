"""What as many weights drawn at random are good for."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def sara_random_zeroed(run: Path) -> float:
    """Share by which the base's error on what it knows rises when a random 10 % are set to 0."""
    import torch

    from ftcli.reproduce.measures.sara_smallest_zeroed import SHARE, rise
    from ftcli.reproduce.probe import again

    generator = torch.Generator().manual_seed(again(run).seed)

    def drawn(parameters: dict[str, Any]) -> dict[str, Any]:
        return {
            name: (torch.rand(p.shape, generator=generator) < SHARE).to(p.device)
            for name, p in parameters.items()
        }

    return rise(run, drawn)
