"""Compare two models by their logits on the same rows, and locate the first difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

Row = Sequence[int] | dict[str, torch.Tensor]  # tokens, or the inputs of one example
# Allowed difference as a share of the largest logit, by the coarsest type involved.
ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2, torch.int8: 4e-2}
TRACED = 32  # tokens of the row whose hidden states are compared


@dataclass(frozen=True)
class Agreement:
    """Comparison of two models on the same rows.

    Attributes:
        rows: number of rows.
        difference: largest difference of a logit.
        largest: largest logit of the first model.
        same: share of positions where both models have the same most likely token.
        decided: the same share over positions where the two largest logits of the first model are
            further apart than twice `allowed`. 1 where there are none.
        allowed: largest difference that is allowed.
    """

    rows: int
    difference: float
    largest: float
    same: float
    decided: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether logits differ by at most `allowed`, and `decided` is 1."""
        return self.difference <= self.allowed and self.decided == 1


def compare_logits(
    before: Sequence[torch.Tensor],
    after: Sequence[torch.Tensor],
    share: float,
    tolerance: float | None = None,
) -> Agreement:
    """Compare logits [T, V] of the same rows.

    Args:
        share: allowed difference as a share of the largest logit.
        tolerance: allowed difference of a logit, instead of `share`.
    """
    pairs = list(zip(before, after, strict=True))
    difference = max((b - a).abs().max().item() for b, a in pairs)
    largest = max(b.abs().max().item() for b in before)
    allowed = share * largest if tolerance is None else tolerance
    same = torch.cat([b.argmax(-1) == a.argmax(-1) for b, a in pairs])
    best = torch.cat([b.topk(min(2, b.shape[-1])).values for b in before])
    clear = best[:, 0] - best[:, -1] > 2 * allowed
    decided = same[clear].float().mean().item() if clear.any() else 1.0
    return Agreement(len(pairs), difference, largest, same.float().mean().item(), decided, allowed)


@torch.no_grad()
def compute_logits(model: Any, rows: Sequence[Row]) -> list[torch.Tensor]:
    """Return float32 logits of each row by itself, without padding or autocast: [T, V], or [1, C] of classes."""
    model.eval()
    computed = []
    for row in rows:
        out = model(**_prepare_inputs(model, row)).logits
        computed.append(out.flatten(0, -2).float().cpu())
    return computed


@torch.no_grad()
def compute_hidden_states(model: Any, row: Row) -> list[torch.Tensor]:
    """Return the inputs of all blocks and the output of the last; empty where the model gives none."""
    short = row if isinstance(row, dict) else row[:TRACED]
    out = model(**_prepare_inputs(model, short), output_hidden_states=True)
    states = getattr(out, "hidden_states", None) or ()
    return [state.float().cpu() for state in states]


def locate_difference(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> str:
    """Return the first part of the model whose hidden states differ, in words."""
    share = ROUNDING[torch.float32]
    for number, (b, a) in enumerate(zip(before, after, strict=False)):
        if not (b - a).abs().max() <= share * b.abs().max():
            return "the token embeddings" if number == 0 else f"block {number - 1}"
    return "the head, or a norm before it"


def choose_rounding_tolerance(model: Any) -> float:
    """Return the share of the largest logit by which a merged model may differ from this trained one."""
    quantised = getattr(model.config, "quantization_config", None)
    if getattr(quantised, "load_in_8bit", False):
        return ROUNDING[torch.int8]  # the layers round activations too
    compute = getattr(quantised, "bnb_4bit_compute_dtype", model.dtype)
    return max(ROUNDING.get(dtype, max(ROUNDING.values())) for dtype in (model.dtype, compute))


def _prepare_inputs(model: Any, row: Row) -> dict[str, torch.Tensor]:
    inputs = row if isinstance(row, dict) else {"input_ids": torch.tensor([list(row)])}
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}
