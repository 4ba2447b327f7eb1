"""LoRA+: a higher learning rate for B than for A (arXiv 2402.12354)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftcli.core.callback import Callback
from ftcli.core.errors import UserError
from ftcli.optimizers.rates import list_trained, scale_rates

if TYPE_CHECKING:
    from torch import nn

    from ftcli.core.run import Run


@dataclass
class LoRAPlus(Callback):
    """Trains the matrices B of an adapter at `ratio` times the rate of its matrices A.

    lr_B = ratio * lr_A with lr_A = optimizer.lr (Hayou et al. 2024, arXiv 2402.12354, section 4). A pair is
    told by its names: lora_A and lora_B, lora_embedding_A and lora_embedding_B, and their like.
    """

    ratio: float = 16.0  # rate of B over the rate of A

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model that trains no pair of A and B.

        Raises:
            UserError: there is none.
        """
        find_factors(list_trained(model), self.ratio)

    def setup(self, run: Run) -> None:
        """Set the rates of the optimizer's groups."""
        factors = find_factors(list_trained(run.model), self.ratio)
        scale_rates(run.optimizer_builder.optimizer, factors, run.model)


def find_factors(names: list[str], ratio: float) -> dict[str, float]:
    """Return `ratio` for the name of every B that has its A among `names`.

    Raises:
        UserError: there is no such pair.
    """
    known = {part for name in names for part in _prefixes(name)}
    factors = {}
    for name in names:
        ends = [part for part in _prefixes(name) if part.endswith("_B")]
        if any(f"{end[:-1]}A" in known for end in ends):
            factors[name] = ratio
    if not factors:
        raise UserError(
            f"LoRA+ sets the rate of B against that of A, and this method trains no such pair "
            f"({names[0]} ...).",
            where="callback",
            fix="~callback.lora_plus, or method=lora (qlora, dora, rslora, pissa)",
        )
    return factors


def _prefixes(name: str) -> list[str]:
    """Return the dotted beginnings of a name, itself included."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
