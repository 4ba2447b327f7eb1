"""Layer-wise decay of the learning rate: the deeper a block lies below the output, the lower its rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftcli.core.callback import Callback
from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy
from ftcli.optimizers.rates import list_trained, scale_rates

if TYPE_CHECKING:
    from torch import nn

    from ftcli.core.run import Run


@dataclass
class LayerDecay(Callback):
    """Multiplies the rate of each block by `decay_per_layer` for every block between it and the output.

    Block l of L (counted from 1) gets decay^(L - l), the embeddings decay^L, what follows the blocks 1
    (discriminative finetuning: Howard and Ruder 2018, arXiv 1801.06146, section 3.2). An encoder's blocks come
    before those of its decoder.
    """

    decay_per_layer: float = 0.9  # factor from one block to the one below it

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model without blocks that are trained.

        Raises:
            UserError: it has none, or none of them is trained.
        """
        find_factors(model, self.decay_per_layer)

    def setup(self, run: Run) -> None:
        """Set the rates of the optimizer's groups."""
        factors = find_factors(run.model, self.decay_per_layer)
        scale_rates(run.optimizer_builder.optimizer, factors, run.model)


def find_factors(model: nn.Module, decay: float) -> dict[str, float]:
    """Return name -> factor for every trained parameter of blocks and embeddings.

    Raises:
        UserError: the model has no repeated blocks, or none of them is trained.
    """
    anatomy = Anatomy(model)
    depth = len(anatomy.blocks)
    if not depth:
        raise UserError(
            "this model has no repeated blocks, so that its layers have no order.",
            where="callback",
            fix="callback=learning_rates, with a factor for each pattern of names",
        )
    parts = {name: depth for name, _ in anatomy.embeddings}
    parts |= {name: depth - 1 - index for index, (name, _) in enumerate(anatomy.blocks)}
    factors = {}
    for name in list_trained(model):
        below = next((steps for part, steps in parts.items() if f".{part}." in f".{name}."), None)
        if below is not None:
            factors[name] = decay**below
    if not factors:
        raise UserError(
            "no trained parameter lies in a block of the model.",
            where="callback",
            fix="callback=learning_rates, or ~callback.layer_decay",
        )
    return factors
