"""LiNeS (arXiv 2410.17146): a change of weights scaled by a factor that grows with depth."""

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
    """lambda_l = alpha + beta * l / (L - 1); the only block of a stack counts as its last."""
    return alpha + beta * (index / (total - 1) if total > 1 else 1.0)


def single_task_factors(gamma: float) -> tuple[float, float]:
    """alpha and beta for one task: the first block gets gamma, the last one all of its change."""
    return gamma, 1.0 - gamma


def scale_by_depth(
    delta: Delta,
    alpha: float,
    beta: float,
    outside: Outside = "alpha",
    anatomy: Anatomy | None = None,
) -> Delta:
    """The delta with every tensor of block l multiplied by lambda_l, all others by alpha.

    Of a LoRA the second factor is multiplied, which scales the product by as much.

    Args:
        outside: what tensors outside the blocks get: alpha (the authors' code), or by_position:
            those behind the last block (final norm, head) its factor.
        anatomy: of the model; that of the delta's source if left out.

    Raises:
        UserError: the adapter has no second factor.
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
    """alpha of a merger of N tasks: (1/N) |sum of all|_1 / |merged|_1; 1/N for task arithmetic.

    Raises:
        UserError: the deltas do not belong together.
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
    """Modules behind the last block: final norms and the head, unless it is the token table."""
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
    """The gamma that keeps both tasks: the least weight * target + control, each over its reference.

    Args:
        losses: gamma -> held-out losses on the target and on the control rows.
        finetuned: the finetuned model's on the target.
        pretrained: the pretrained model's on the control.

    Returns:
        The best gamma, and the sum for each.
    """
    scores = {}
    for gamma in grid:
        target, control = losses(gamma)
        scores[gamma] = weight * target / finetuned + control / pretrained
    return min(scores, key=lambda gamma: scores[gamma]), scores
