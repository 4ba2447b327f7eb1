"""What penalties on outputs share: the logits of the batch, a chunk of them at a time."""

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
#: tokens: a distribution over the vocabulary at each labelled position. classes: one an example.
Form = Literal["tokens", "classes"]


@dataclass
class OutputPenalty(Penalty):
    """Base of penalties on the logits [n, V] behind which there is a label.

    With weight 0 the figure is logged, and no gradient of it exists.

    Args:
        form: which of the paper's two forms, for generation or for classification.
        chunk_size: tokens whose logits exist at the same time, where the form allows that.
    """

    form: Form = "tokens"
    chunk_size: int = 1024

    def gradient(self) -> torch.set_grad_enabled:
        """Gradients on where they are asked for and change anything."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and self.weight != 0)

    def mean(self, values: Callable[..., Tensor], *hidden: Tensor) -> Tensor:
        """Mean of `values`, hidden states [n, d] -> [n], computed chunk by chunk.

        With several chunks each is computed again in backward, as the objective does with its own.
        """
        pieces = list(zip(*(h.split(self.chunk_size) for h in hidden), strict=True))
        if len(pieces) < 2 or not torch.is_grad_enabled():
            found = [values(*piece) for piece in pieces]
        else:
            found = [checkpoint(values, *piece, use_reentrant=False) for piece in pieces]
        return torch.cat(found).sum() / max(1, len(hidden[0]))


def predicted(losses: Losses) -> tuple[Tensor, Head]:
    """Hidden states [n, d] and the function that gives their logits [.., V].

    Raises:
        UserError: the objective has none.
    """
    if losses.hidden is None or losses.head is None:
        raise UserError(
            "this objective gives no logits, on which the penalty stands.",
            where="penalty",
            fix="objective=causal_lm",
        )
    return losses.hidden, losses.head
