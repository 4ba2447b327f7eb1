"""Finetuning transfer (arXiv 2503.20110): the change of one base model added to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftcli.deltas.artefact import Artefact
from ftcli.deltas.delta import Delta
from ftcli.deltas.difference import compute_model_delta, refuse_misfits
from ftcli.deltas.evaluator import RunEvaluator
from ftcli.deltas.product import strengthen_delta
from ftcli.deltas.weights import LazyWeights


def transfer_delta(delta: Delta, target: Artefact, scale: float = 1.0) -> LazyWeights:
    """Return m_t + lambda (m'_s - m_s), each tensor computed in float64 and rounded once.

    Tokens that a base lacks count as zero rows, so that rows new in m'_s are taken from it unchanged.
    For an adapter the result is its own tensors, times `scale`: loaded on the new base they are the
    transfer.

    Raises:
        UserError: a tensor is missing or its shape differs, apart from the number of tokens.
    """
    if delta.kind == "adapter":
        return (delta if scale == 1 else strengthen_delta(delta, scale)).adapter()
    wanted = {name: (shape, delta.dtype) for name, shape in delta.shapes.items()}
    refuse_misfits(wanted, target.weights.layout, target, str(target.folder))
    return delta.add_to(target.weights, scale)


def find_config_changes(tensors: LazyWeights, target: Artefact) -> dict[str, Any]:
    """Return the changes to the target's config.json: the vocabulary size where tokens were added."""
    name = next((n for n in sorted(target.vocabulary) if n in tensors), None)
    rows = tensors.layout[name][0][0] if name else None
    return {} if rows in (None, target.config.get("vocab_size")) else {"vocab_size": rows}


def score_path(
    evaluator: RunEvaluator,
    first: Artefact,
    second: Artefact,
    points: int = 5,
    split: str | None = None,
) -> list[tuple[float, float]]:
    """Return (t, score of (1-t) first + t second) at evenly spaced t; a flat path predicts success.

    Raises:
        UserError: names or shapes of the tensors differ.
    """
    path = compute_model_delta(second, first)
    steps: Sequence[float] = [i / (points - 1) for i in range(points)]
    return [(t, evaluator.score(path.add_to(first.weights, t), split)) for t in steps]


def barrier(path: Sequence[tuple[float, float]]) -> float:
    """Return the most by which a path of losses rises above the straight line between its ends."""
    first, last = path[0][1], path[-1][1]
    return max(score - ((1 - t) * first + t * last) for t, score in path)
