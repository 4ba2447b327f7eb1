"""NEFTune: uniform noise on the embeddings of the input in training (arXiv 2310.05914)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftcli.core.callback import Callback, State
from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy

if TYPE_CHECKING:
    from torch import nn

    from ftcli.core.run import Run


@dataclass
class NEFTune(Callback):
    """Adds alpha / sqrt(L d) times noise from Uniform(-1, 1) to the embeddings of a document of L tokens.

    (Jain et al. 2023, arXiv 2310.05914, algorithm 1; d is the width of the embeddings.) L is a document's own
    length, also in packed and padded rows; the norm of its noise is alpha / sqrt(3) on average. In evaluation,
    generation and the passes of a reference nothing is added, nor where the optimizer steps by losses
    alone: they are computed in evaluation mode.
    """

    alpha: float = 5.0  # size of the noise

    def __post_init__(self) -> None:
        self._lengths: Tensor | None = None  # [B, T], of the batch that is in the model
        self._hooks: list[Any] = []

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model without a table of token embeddings.

        Raises:
            UserError: it has none.
        """
        tables = Anatomy(model).embeddings
        if not tables or not hasattr(tables[0][1], "num_embeddings"):
            raise UserError(
                "NEFTune adds noise to token embeddings, and this model has none.",
                where="callback",
                fix="~callback.neftune",
            )

    def setup(self, run: Run) -> None:
        """Attach the noise to the embeddings of the run's model."""
        self.check_model(run.model)
        table = run.model.get_input_embeddings()
        self._hooks = [
            run.model.register_forward_pre_hook(self._read_lengths, with_kwargs=True),
            table.register_forward_hook(self._add_noise),
        ]

    def on_train_end(self, state: State) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._lengths, self._hooks = None, []

    def _read_lengths(self, _: nn.Module, __: Any, inputs: dict[str, Any]) -> None:
        self._lengths = document_lengths(inputs)

    def _add_noise(self, table: nn.Module, _: Any, embedded: Tensor) -> Tensor | None:
        if not table.training:
            return None
        lengths = self._lengths
        if lengths is None or lengths.shape[1] != embedded.shape[1]:  # such as a decoder's input
            lengths = torch.full(embedded.shape[:2], embedded.shape[1], device=embedded.device)
        scale = self.alpha / (lengths.to(embedded.device) * embedded.shape[-1]).sqrt()
        noise = torch.empty_like(embedded).uniform_(-1, 1)
        return embedded + noise * scale[..., None].to(embedded.dtype)


def document_lengths(inputs: dict[str, Any]) -> Tensor | None:
    """Return for each token [B, T] the length of its document, from a model's keyword arguments.

    A packed row has position ids that begin anew with each document; a padded one has an attention mask
    [B, T]. None where there is neither.
    """
    positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
    if positions is not None:
        begins = torch.ones_like(positions, dtype=torch.bool)
        begins[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
        document = begins.flatten().cumsum(0) - 1
        sizes = torch.zeros_like(document).scatter_add_(0, document, torch.ones_like(document))
        return sizes[document].view_as(positions)
    if mask is not None and mask.dim() == 2:
        return mask.sum(1, keepdim=True).clamp(min=1).expand(mask.shape)
    return None
