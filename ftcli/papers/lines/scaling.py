"""LiNeS (arXiv 2410.17146): a delta scaled by a factor that grows linearly with depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from ftcli.core.errors import UserError
from ftcli.deltas.delta import Delta, refuse_mixed
from ftcli.deltas.positions import find_positions
from ftcli.deltas.product import is_second

if TYPE_CHECKING:
    from ftcli.models.anatomy import Anatomy

Outside = Literal["alpha", "by_position"]
GRID = tuple(i / 10 for i in range(11))


def depth_factor(alpha: float, beta: float, index: int, total: int) -> float:
    """Return lambda_l = alpha + beta * l / (L - 1) for block l of L; a single block counts as the last."""
    return alpha + beta * (index / (total - 1) if total > 1 else 1.0)


def single_task_factors(gamma: float) -> tuple[float, float]:
    """Return alpha and beta for one task: factor gamma for the first block, 1 for the last."""
    return gamma, 1.0 - gamma


def scale_by_depth(
    delta: Delta,
    alpha: float,
    beta: float,
    outside: Outside = "alpha",
    anatomy: Anatomy | None = None,
) -> Delta:
    """Return the delta with every tensor of block l multiplied by lambda_l, all others by alpha.

    For a LoRA only the second factor is multiplied, which scales the product.

    Args:
        outside: factor of tensors outside the blocks. alpha: alpha (the authors' code); by_position: the
            last block's factor for tensors after it (final norm, head), alpha for the others.
        anatomy: anatomy of the model; None: that of the delta's source.

    Raises:
        UserError: the adapter has no second factor, so it is not a LoRA.
    """
    if anatomy is None:
        assert delta.source is not None
        anatomy = delta.source.anatomy
    factors = _factors(delta, alpha, beta, outside, anatomy)
    if delta.kind == "adapter":
        if not any(is_second(name) for name in delta.shapes):
            raise UserError(
                "an adapter can be scaled by depth only where it is a LoRA, through its second factor.",
                "--kind",
            )
        factors = {name: f if is_second(name) else 1.0 for name, f in factors.items()}
    return delta.map(
        lambda name, tensor: tensor * factors[name],
        f"LiNeS: alpha {alpha:g}, beta {beta:g}, outside {outside}",
    )


def merged_alpha(deltas: Sequence[Delta], merged: Delta) -> float:
    """Return alpha for N merged tasks: (1/N) |sum of deltas|_1 / |merged|_1; 1/N for task arithmetic.

    Raises:
        UserError: the deltas have different bases or kinds.
    """
    from ftcli.deltas.delta import sum_deltas

    refuse_mixed([*deltas, merged])
    return sum_deltas(deltas).norm(1) / merged.norm(1) / len(deltas)


def _factors(
    delta: Delta, alpha: float, beta: float, outside: Outside, anatomy: Anatomy
) -> dict[str, float]:
    names = list(delta.shapes)
    behind = _modules_after_blocks(anatomy) if outside == "by_position" else ()
    factors = {}
    for name, place in find_positions(anatomy, names).items():
        if place is not None:
            factors[name] = depth_factor(alpha, beta, *place)
        else:
            deepest = any(f"{part}." in name for part in behind)
            factors[name] = alpha + beta if deepest else alpha
    return factors


def _modules_after_blocks(anatomy: Anatomy) -> list[str]:
    """Return the modules after the last block: final norms and the head, unless tied to the embeddings."""
    blocks = [stack.name for stack in anatomy.stacks]
    order = list(anatomy.modules)
    end = max(order.index(name) for name in blocks)
    later = [n for n in order[end:] if not any(n.startswith(f"{b}.") or n == b for b in blocks)]
    leaves = {name for name, _ in anatomy.norms} | ({anatomy.head[0]} if anatomy.head else set())
    return [name for name in later if name in leaves]


def search_gamma(
    losses: Callable[[float], tuple[float, float]],
    finetuned: float,
    pretrained: float,
    weight: float = 2.0,
    grid: Sequence[float] = GRID,
) -> tuple[float, dict[float, float]]:
    """Return the gamma with the least weight * target / finetuned + control / pretrained.

    Args:
        losses: gamma -> held-out losses on the target and on the control rows.
        finetuned: loss of the finetuned model on the target rows.
        pretrained: loss of the pretrained model on the control rows.

    Returns:
        The best gamma, and gamma -> weighted sum for all of the grid.
    """
    scores = {}
    for gamma in grid:
        target, control = losses(gamma)
        scores[gamma] = weight * target / finetuned + control / pretrained
    return min(scores, key=lambda gamma: scores[gamma]), scores
