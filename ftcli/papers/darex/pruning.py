"""DARE and DAREx (arXiv 2410.09344): drop entries of a delta at random, divide the others by q."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.deltas.delta import Delta

PATIENCE = 4  # points without improvement after which a search ends
TOP = 0.998  # largest q of the analytic search
STEP = 0.001  # of the analytic search


def drop_entries(
    delta: Delta,
    p: float,
    q: float | dict[str, float] | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    rows: bool = False,
) -> Delta:
    """Return m * delta / q with m ~ Bernoulli(1 - p) for each entry; q = 1 - p, the default, is DARE.

    The mask of a tensor depends on seed and name alone, not on the other tensors that are pruned.

    Args:
        p: share of entries that is dropped, in [0, 1).
        q: positive; one for all tensors, or by name.
        names: tensors to prune, others keep all their entries; None prunes all.
        rows: drop whole rows (structural pruning).

    Raises:
        UserError: p or q is out of its range.
    """
    if not 0 <= p < 1:
        raise UserError(
            f"p={p:g} is not a share of entries from 0 to below 1.", "--p", "0 <= p < 1"
        )
    by_name = q if isinstance(q, dict) else dict.fromkeys(delta.shapes, 1 - p if q is None else q)
    if min(by_name.values()) <= 0:
        raise UserError("q must be positive: entries are divided by it.", "--q")
    chosen = set(delta.shapes if names is None else names)

    def prune(name: str, tensor: Tensor) -> Tensor:
        if name not in chosen:
            return tensor
        return tensor * draw_mask(name, tuple(tensor.shape), p, seed, rows) / by_name[name]

    mean = sum(by_name[name] for name in chosen) / max(len(chosen), 1)
    return delta.map(prune, f"DARE: p {p:g}, q {mean:.4g}, seed {seed}")


def draw_mask(name: str, shape: tuple[int, ...], p: float, seed: int, rows: bool = False) -> Tensor:
    """Return the mask of the entries that stay: bool of this shape, with `rows` [rows, 1, ...]."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") % 2**63)
    size = (shape[0], *[1] * (len(shape) - 1)) if rows and shape else shape
    return torch.rand(size, generator=generator, dtype=torch.float64) >= p


def select_tensors(delta: Delta, exclude: Sequence[str] = ()) -> list[str]:
    """Return the names to prune: of a model the linears of its blocks with biases, of an adapter all.

    Embeddings, norms and heads are not pruned, as in the paper's decoders.

    Args:
        exclude: patterns of further names that are not pruned.

    Raises:
        UserError: no tensor is left to prune.
    """
    names = list(delta.shapes)
    if delta.kind == "model":
        assert delta.source is not None
        linears = {linear.name for linear in delta.source.anatomy.block_linears}
        names = [name for name in names if name.rpartition(".")[0] in linears]
    names = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in exclude)]
    if not names:
        raise UserError("no tensor is left to prune.", where="--exclude")
    return names


def search_grid(
    score: Callable[[float], float],
    better: Callable[[float, float], bool],
    low: float,
    high: float,
    step: float,
) -> tuple[float, dict[float, float]]:
    """Return the best value of a coarse and then a fine grid, and the score of every value tried.

    The coarse grid goes from `low` to `high` by `step` and ends after 4 points in a row without
    improvement; the fine one goes from 0.9 steps below the best point to one step above it, by a tenth
    of a step.

    Args:
        better: whether its first score is better than its second.
    """
    scores: dict[float, float] = {}
    best, since = low, 0
    for value in _make_grid(low, high, step):
        scores[value] = score(value)
        if value == low or better(scores[value], scores[best]):
            best, since = value, 0
        else:
            since += 1
        if since == PATIENCE:
            break
    for value in _make_grid(max(best - 0.9 * step, step / 10), best + step, step / 10):
        scores[value] = scores[value] if value in scores else score(value)
        if better(scores[value], scores[best]):
            best = value
    return best, scores


def phi(p: float) -> float:
    """Return Phi(p) = (1 - 2p) / ln((1 - p) / p), the variance proxy of a Bernoulli mask; 1/2 at 1/2."""
    if abs(p - 0.5) < 1e-9:
        return 0.5
    return (1 - 2 * p) / math.log((1 - p) / p)


def analytic_q(
    c: Tensor,
    p: float,
    eta: float,
    gamma: float = 0.95,
    passed: float = 0.8,
    dtype: torch.dtype = torch.float64,
) -> float:
    """Return the q of a layer that minimises the bound on its change of output (section 4).

    For each row | eta (1 - (1-p)/q) S1 + eta^2 Phi(p) S2 / (4 q^2) + ln(2 / (1-gamma)) | is minimised
    over q in {1-p, ..., 0.998}, with S1 and S2 the sums of c and c^2; the search ends where a share
    `passed` of the rows is past its minimum. The layer's q is the mean over rows. This is a heuristic,
    whose result should be evaluated.

    Args:
        c: delta_ij times the mean input x_j, bias change as a last column; [out, in].
        eta: one number for the whole model, found by `search_grid`.
        dtype: dtype of the computation; the authors' code uses float16.
    """
    q = torch.arange(1 - p, TOP + STEP / 2, STEP, dtype=torch.float64).to(dtype)
    first, second = c.to(dtype).sum(1, keepdim=True), c.to(dtype).square().sum(1, keepdim=True)
    bias = eta * (1 - (1 - p) / q) * first
    value = (bias + eta**2 * phi(p) * second / (4 * q**2) + math.log(2 / (1 - gamma))).abs()
    minima = value.argmin(1)
    needed = math.ceil(passed * len(minima))
    end = minima.sort().values[needed - 1]
    return q[minima.minimum(end)].double().mean().item()


def bits_per_entry(p: float) -> float:
    """Return bits per entry of a pruned delta: the entropy of the mask, and 16 for each value kept."""
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) + (1 - p) * 16


def _make_grid(low: float, high: float, step: float) -> list[float]:
    count = math.floor((high - low) / step + 1e-9) + 1
    return [round(low + i * step, 10) for i in range(count)]
