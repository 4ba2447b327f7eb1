"""Base class of penalties on outputs, which computes the logits of a batch chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ftcli.core.errors import UserError
from ftcli.objectives.base import Losses
from ftcli.penalties.base import Penalty

Head = Callable[[Tensor], Tensor]
#: tokens: a distribution over the vocabulary at each labelled position; classes: one for each example.
Form = Literal["tokens", "classes"]


@dataclass
class OutputPenalty(Penalty):
    """Base of penalties on the logits [n, V] at positions that have a label.

    With weight 0 the penalty is computed without a gradient, to be logged.

    Args:
        form: the paper's form for generation (tokens) or for classification (classes).
        chunk_size: tokens whose logits are held at the same time, where the form allows it.
    """

    form: Form = "tokens"
    chunk_size: int = 1024

    def enable_gradient(self) -> torch.set_grad_enabled:
        """Return a context with gradients enabled, unless they are disabled outside or the weight is 0."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and self.weight != 0)

    def mean_over_chunks(self, values: Callable[..., Tensor], *hidden: Tensor) -> Tensor:
        """Return the mean of `values`, a function of hidden states [n, d] -> [n], chunk by chunk.

        With several chunks each is recomputed in backward, as the objective does with its logits.
        """
        chunks = list(zip(*(h.split(self.chunk_size) for h in hidden), strict=True))
        if len(chunks) < 2 or not torch.is_grad_enabled():
            results = [values(*chunk) for chunk in chunks]
        else:
            results = [checkpoint(values, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.cat(results).sum() / max(1, len(hidden[0]))


def require_logits(losses: Losses) -> tuple[Tensor, Head]:
    """Return the hidden states [n, d] at labelled positions and the head that gives logits [.., V].

    Raises:
        UserError: the objective gives no logits.
    """
    if losses.hidden is None or losses.head is None:
        raise UserError(
            "this objective gives no logits, which the penalty is computed from.",
            where="penalty",
            fix="objective=causal_lm",
        )
    return losses.hidden, losses.head
