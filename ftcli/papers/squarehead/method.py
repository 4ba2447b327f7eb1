"""Full finetuning of a pruned model: the weights that pruning removed stay exactly 0."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.methods.calibration import Batch, calibration_batches, input_covariance
from ftcli.methods.full import Full
from ftcli.models.anatomy import Anatomy
from ftcli.papers.squarehead.sparsify import Algorithm, prune, read_pattern

if TYPE_CHECKING:
    from ftcli.core.callback import State
    from ftcli.core.run import Run

_log = logging.getLogger("ftcli.methods")


class Masked(Full):
    """Prune the linear layers of the blocks in `setup`, then train all weights but their zeros.

    Zeros are those of every linear layer whose share of them is at least `min_layer_sparsity`, whoever made
    them: with algorithm=none the model comes pruned. Gradients are masked before clipping, weights after every
    step, since momentum from before the mask moves a weight that gets no gradient. Masks are checkpointed.

    Args:
        algorithm: none, magnitude, wanda or sparsegpt.
        pattern: unstructured, or n:m for n weights kept in every m of a row (2:4, 16:32).
        sparsity: share of zeros of each matrix, where unstructured.
        samples: training rows over which inputs of the layers are measured (wanda, sparsegpt).
        batch_size: rows a forward pass of calibration; see `ftcli.methods.calibration.calibration_batches`.
        damp: share of the mean of the Hessian's diagonal that sparsegpt adds to the diagonal.
        min_layer_sparsity: least share of zeros of a layer whose zeros are kept.
        train: patterns of names of the parameters that are trained; null: all.

    Raises:
        UserError: the pattern is none, or the share of zeros is not between 0 and 1.
    """

    shardable: ClassVar[bool] = False
    formula: ClassVar[str] = "all parameters; those of them that are masked do not move"

    def __init__(
        self,
        algorithm: Algorithm = "sparsegpt",
        pattern: str = "unstructured",
        sparsity: float = 0.5,
        samples: int = 128,
        batch_size: int = 1,
        damp: float = 0.01,
        min_layer_sparsity: float = 0.1,
        train: list[str] | None = None,
    ) -> None:
        super().__init__(train)
        try:
            self.pattern = read_pattern(pattern, sparsity)
        except ValueError as error:
            raise UserError(
                str(error), where="method", fix="method.pattern=2:4, or method.sparsity=0.5"
            ) from None
        self.algorithm, self.damp = algorithm, damp
        self.samples, self.batch_size = samples, batch_size
        self.min_layer_sparsity = min_layer_sparsity
        self.masks: dict[str, Tensor] = {}  # layer -> bool [out, in], False where the weight is 0
        self._layers: dict[str, nn.Linear] = {}

    def setup(self, run: Run) -> None:
        """Prune block by block, each with the inputs that the pruned blocks before it give; then take the masks.

        Raises:
            UserError: there is no linear layer to prune, a layer does not fit the pattern, or nothing is zero.
        """
        blocks = list_layers(run.model)
        if not blocks:
            raise UserError(
                "method=masked finds no linear layer inside the blocks of this model.",
                where="method",
                fix="method=full",
            )
        if self.algorithm != "none":
            for layers in blocks:
                self._prune_block(run, layers)
        self._layers = {name: layer for block in blocks for name, layer in block.items()}
        self.masks = find_masks(self._layers, self.min_layer_sparsity)
        if not self.masks:
            raise UserError(
                f"no linear layer has {self.min_layer_sparsity:.0%} zeros, so that nothing is masked.",
                where="method.algorithm",
                fix="method.algorithm=sparsegpt",
            )
        _log.info(
            f"masks of {len(self.masks)} of {len(self._layers)} linear layers, "
            f"{zero_share(self.masks):.2%} of their weights are 0"
        )

    @torch.no_grad()
    def _prune_block(self, run: Run, layers: dict[str, nn.Linear]) -> None:
        measured = {}
        if self.algorithm != "magnitude":
            batches = calibration_batches(run, self.samples, self.batch_size)
            measured = input_covariance(run.model, layers, batches, forward_in(run))
        for name, layer in layers.items():
            if self.algorithm != "magnitude" and name not in measured:
                raise UserError(
                    f"no token of the calibration rows reaches {name}.",
                    where="method.samples",
                    fix="method.algorithm=magnitude",
                )
            covariance = measured[name].mean if name in measured else None
            try:
                pruned = prune(layer.weight, covariance, self.algorithm, self.pattern, self.damp)
            except ValueError as error:
                raise UserError(f"{name}: {error}.", "method.pattern", "another pattern") from None
            layer.weight.copy_(pruned)

    @torch.no_grad()
    def after_backward(self, state: State) -> None:
        """Remove the gradients of masked weights, so that neither clipping nor moments see them."""
        for name, mask in self.masks.items():
            gradient = self._layers[name].weight.grad
            if gradient is not None:
                gradient.mul_(mask)

    @torch.no_grad()
    def after_step(self, state: State) -> None:
        """Set masked weights to 0, whatever moved them."""
        for name, mask in self.masks.items():
            self._layers[name].weight.mul_(mask)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks."""
        return {"masks": dict(self.masks)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take the masks of the checkpoint in place of those of `setup`."""
        self.masks = {
            name: mask.to(self._layers[name].weight.device) for name, mask in saved["masks"].items()
        }

    def describe(self) -> dict[str, Any]:
        """Return the method's name and the patterns of trained parameters."""
        return super().describe() | {"method": "masked"}


def list_layers(model: nn.Module) -> list[dict[str, nn.Linear]]:
    """Return, for each block in the order of the model, name -> linear layer; blocks without any left out."""
    anatomy = Anatomy(model)
    blocks = [
        {li.name: li.module for li in anatomy.linears_of(name) if isinstance(li.module, nn.Linear)}
        for name, _ in anatomy.blocks
    ]
    return [layers for layers in blocks if layers]


def find_masks(layers: dict[str, nn.Linear], min_share: float) -> dict[str, Tensor]:
    """Return name -> where a weight is not 0, of the layers with at least `min_share` zeros."""
    masks = {name: layer.weight.detach() != 0 for name, layer in layers.items()}
    return {name: mask for name, mask in masks.items() if zero_share({name: mask}) >= min_share}


def zero_share(masks: dict[str, Tensor]) -> float:
    """Return the share of False in masks."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1 - kept / sum(mask.numel() for mask in masks.values())


def forward_in(run: Run) -> Any:
    """Return a function that runs a model on a batch in the run's precision."""
    from ftcli.objectives.causal_lm import compute_hidden_and_head

    def forward(model: nn.Module, batch: Batch) -> None:
        with run.autocast():
            compute_hidden_and_head(model, batch, run.accelerator.device)

    return forward
