"""DARE and DAREx (arXiv 2410.09344): entries of a change dropped at random, the rest divided by q."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.deltas.delta import Delta

PATIENCE = 4  # points of a search without improvement
TOP = 0.998  # largest q that the analytic search tries
STEP = 0.001


def dropped(
    delta: Delta,
    p: float,
    q: float | dict[str, float] | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    rows: bool = False,
) -> Delta:
    """m * delta / q with m ~ Bernoulli(1 - p) an entry; q = 1 - p, the default, is DARE.

    The mask of a tensor depends on seed and name alone, whatever else is pruned.

    Args:
        p: share of entries that is dropped.
        q: one for all, or by name.
        names: tensors to prune, others keep their whole change; None prunes all.
        rows: whole rows are dropped (structural pruning).

    Raises:
        UserError: p or q is no such share.
    """
    if not 0 <= p < 1:
        raise UserError(f"p={p:g} is no share of entries to drop.", "--p", "0 <= p < 1")
    by_name = q if isinstance(q, dict) else dict.fromkeys(delta.shapes, 1 - p if q is None else q)
    if min(by_name.values()) <= 0:
        raise UserError("q must be positive: changes are divided by it.", "--q")
    chosen = set(delta.shapes if names is None else names)

    def prune(name: str, tensor: Tensor) -> Tensor:
        if name not in chosen:
            return tensor
        return tensor * mask(name, tuple(tensor.shape), p, seed, rows) / by_name[name]

    mean = sum(by_name[name] for name in chosen) / max(len(chosen), 1)
    return delta.map(prune, f"DARE: p {p:g}, q {mean:.4g}, seed {seed}")


def mask(name: str, shape: tuple[int, ...], p: float, seed: int, rows: bool = False) -> Tensor:
    """Which entries stay: bool of this shape, or [rows, 1, ...]."""
    own = int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), "big")
    generator = torch.Generator().manual_seed(own % 2**63)
    size = (shape[0], *[1] * (len(shape) - 1)) if rows and shape else shape
    return torch.rand(size, generator=generator, dtype=torch.float64) >= p


def scope(delta: Delta, exclude: Sequence[str] = ()) -> list[str]:
    """What is pruned: of a model the matrices and biases of its blocks' linears, of an adapter all.

    Embeddings, norms and heads keep their whole change, as in the paper's decoders.

    Args:
        exclude: patterns of further names to leave whole.

    Raises:
        UserError: nothing is left to prune.
    """
    names = list(delta.shapes)
    if delta.kind == "model":
        assert delta.source is not None
        linears = {linear.name for linear in delta.source.anatomy.block_linears}
        names = [name for name in names if name.rpartition(".")[0] in linears]
    names = [name for name in names if not any(fnmatchcase(name, one) for one in exclude)]
    if not names:
        raise UserError("nothing is left to prune.", where="--exclude")
    return names


def search(
    score: Callable[[float], float],
    better: Callable[[float, float], bool],
    low: float,
    high: float,
    step: float,
) -> tuple[float, dict[float, float]]:
    """The best q of a coarse and then a fine grid, and the score of every q that was tried.

    From `low` to `high` by `step`, ending after 4 points in a row that improve nothing; then from 0.9
    steps below the best one to one step above it, by a tenth of a step.
    """
    tried: dict[float, float] = {}
    best, since = low, 0
    for q in _grid(low, high, step):
        tried[q] = score(q)
        if q == low or better(tried[q], tried[best]):
            best, since = q, 0
        else:
            since += 1
        if since == PATIENCE:
            break
    for q in _grid(max(best - 0.9 * step, step / 10), best + step, step / 10):
        tried[q] = tried[q] if q in tried else score(q)
        if better(tried[q], tried[best]):
            best = q
    return best, tried


def phi(p: float) -> float:
    """Phi(p) = (1 - 2p) / ln((1 - p) / p), 1/2 at p = 1/2: the variance proxy of a Bernoulli mask."""
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
    """The q of a layer that makes the bound on its change of output smallest (section 4).

    For each row | eta (1 - (1-p)/q) S1 + eta^2 Phi(p) S2 / (4 q^2) + ln(2 / (1-gamma)) | over q in
    {1-p, ..., 0.998}, S1 and S2 the sums of c and c^2; the search ends where a share `passed` of
    the rows is past its minimum. The layer's q is the mean over rows. A heuristic: judge what
    it gives.

    Args:
        c: delta_ij times the mean input x_j, bias change as a last column; [out, in].
        eta: one number for the whole model, found by `search`.
        dtype: float16 is what the authors' code computes in.
    """
    q = torch.arange(1 - p, TOP + STEP / 2, STEP, dtype=torch.float64).to(dtype)
    first, second = c.to(dtype).sum(1, keepdim=True), c.to(dtype).square().sum(1, keepdim=True)
    bias = eta * (1 - (1 - p) / q) * first
    value = (bias + eta**2 * phi(p) * second / (4 * q**2) + math.log(2 / (1 - gamma))).abs()
    least = value.argmin(1)
    needed = math.ceil(passed * len(least))
    end = least.sort().values[needed - 1]
    return q[least.minimum(end)].double().mean().item()


def kept_bits(p: float) -> float:
    """Bits an entry of a pruned change: entropy of the mask, and 16 for each value that stays."""
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) + (1 - p) * 16


def _grid(low: float, high: float, step: float) -> list[float]:
    count = math.floor((high - low) / step + 1e-9) + 1
    return [round(low + i * step, 10) for i in range(count)]
