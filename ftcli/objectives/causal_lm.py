"""Next-token prediction with logits only at labelled positions, computed in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.checkpoint import checkpoint

from ftcli.objectives.base import Losses, Objective

#: Maps logits [n, V] in float32 and labels [n] to losses [n].
LossFunction = Callable[[Tensor, Tensor], Tensor]


def plain_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-probabilities [n] of the labels [n] under logits [n, V]."""
    return cross_entropy(logits, labels, reduction="none")


@dataclass
class NextTokenPrediction(Objective):
    """Cross-entropy of the labelled tokens given the tokens before them in their document.

    With label smoothing e (Szegedy et al. 2015, arXiv 1512.00567, section 7) the target is 1 - e of the
    label and e / V of each of the V tokens: (1 - e) (-log p_label) + e / V sum_v (-log p_v).
    """

    shardable: ClassVar[bool] = True

    chunk_size: int = 1024  # tokens whose logits exist at the same time
    label_smoothing: float = 0.0  # share of the target that is spread over the vocabulary

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return losses [n], one a label; labels as in transformers: not shifted, -100 where there is none."""
        return self._compute_losses(model, batch, self.training_losses)

    def held_out_losses(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return plain cross-entropies [n], comparable between runs whatever they were trained by."""
        return self._compute_losses(model, batch, plain_losses)

    def training_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the losses [n] that are minimised, of logits [n, V] in float32 and labels [n]."""
        return cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)

    def _compute_losses(
        self, model: nn.Module, batch: dict[str, Any], function: LossFunction
    ) -> Losses:
        predicting_positions, labels, sequence_index = find_supervised(batch)
        device = next(model.parameters()).device
        hidden, head = compute_hidden_and_head(model, batch, device)
        hidden = hidden.flatten(0, 1)[predicting_positions.to(device, non_blocking=True)]
        labels = labels.to(device, non_blocking=True)
        values = self.token_losses(hidden, labels, head, function)
        sequence_index = sequence_index.to(device, non_blocking=True)
        return Losses(values, sequence_index, hidden=hidden, head=head)

    def sizes(self, batch: dict[str, Any]) -> tuple[int, int]:
        """Return the number of labelled tokens, and of documents that have any."""
        predicting_positions, _, sequence_index = find_supervised(batch)
        return len(predicting_positions), len(sequence_index.unique_consecutive())

    def layout_check_objective(self) -> Objective:
        """Return plain next-token prediction, which subclasses add to or compare."""
        return NextTokenPrediction()

    def token_losses(
        self,
        hidden: Tensor,
        labels: Tensor,
        head: Callable[[Tensor], Tensor],
        function: LossFunction = plain_losses,
    ) -> Tensor:
        """Return the losses [n] of hidden states [n, d] and labels [n], by `function` of their logits.

        With more than one chunk the logits of each are computed again in backward, so that at most
        `chunk_size` x vocabulary of them are ever held.
        """

        def chunk_losses(h: Tensor, y: Tensor) -> Tensor:
            return function(head(h).float(), y)

        pieces = list(
            zip(hidden.split(self.chunk_size), labels.split(self.chunk_size), strict=True)
        )
        if len(pieces) < 2 or not torch.is_grad_enabled():
            return torch.cat([chunk_losses(h, y) for h, y in pieces])
        return torch.cat([checkpoint(chunk_losses, h, y, use_reentrant=False) for h, y in pieces])


def find_supervised(batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions that predict a label, computed on the CPU to avoid a device synchronisation.

    Returns:
        Flat indices [n] of the predicting positions, the labels [n], and the index [n] of the sequence
        that each belongs to.
    """
    labels = batch["labels"]
    following = torch.full_like(labels, -100)
    following[:, :-1] = labels[:, 1:]
    predicting_positions = (following != -100).flatten().nonzero().squeeze(1)
    if "lengths" in batch:
        sequence_index = torch.repeat_interleave(batch["lengths"].long())[predicting_positions]
    else:
        sequence_index = predicting_positions // labels.shape[1]
    return predicting_positions, following.flatten()[predicting_positions].long(), sequence_index


def compute_hidden_and_head(
    model: nn.Module, batch: dict[str, Any], device: torch.device
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return hidden states [B, T, d] before the output layer, and the function from them to logits.

    The function does what the model's forward does from there on; see `ftcli.models.output_head`.
    """
    from ftcli.models.output_head import compute_states_and_head

    if batch.get("document_isolation") == "one_row_per_forward":
        return _compute_row_by_row(model, batch, device)
    inputs = model_inputs(batch, device)
    states, head = compute_states_and_head(model, inputs)
    input_length, length = inputs["input_ids"].shape[1], batch["input_ids"].shape[1]
    return states[:, -input_length:][:, :length], head  # soft prompts precede the input


def _compute_row_by_row(
    model: nn.Module, batch: dict[str, Any], device: torch.device
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return what `compute_hidden_and_head` does for a padded batch, one row at a time and without padding."""
    states = []
    for ids, real in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        row = ids[real.bool()][None]
        single = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        hidden, head = compute_hidden_and_head(model, single, device)
        states.append(pad(hidden, (0, 0, 0, len(ids) - row.shape[1])))
    return torch.cat(states), head


def model_inputs(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the arguments of the model's forward for a packed or a padded batch, on the device.

    A row that is padded on the right gets no position ids: the model computes them, since the first one
    differs by model (RoBERTa counts from the padding id), and those of padding have no effect.
    """
    if "lengths" in batch:
        from ftcli.models.attention_layout import pack_inputs

        inputs = pack_inputs(batch, device)
    else:
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    return {
        k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v
        for k, v in inputs.items()
    }
