"""What the LDU factors of a model's weights lose of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


def loldu_factor_error(run: Path) -> float:
    """Largest |P L diag(D) U - W| / |W| (Frobenius) over the linears of the base's blocks."""
    from ftcli.models.anatomy import Anatomy
    from ftcli.papers.loldu.method import ldu
    from ftcli.reproduce.probe import again

    base = again(run).model_source.load()
    errors = []
    for linear in Anatomy(base).block_linears:
        weight: Any = linear.module.weight
        weight = weight.detach().float()
        lower, diagonal, upper = ldu(weight)
        errors.append(((lower * diagonal @ upper - weight).norm() / weight.norm()).item())
    return max(errors)
