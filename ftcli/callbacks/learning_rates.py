"""Learning rates by name: a factor on the rate of the parameters that a pattern matches."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ftcli.core.callback import Callback
from ftcli.core.errors import UserError
from ftcli.optimizers.rates import list_trained, scale_rates

if TYPE_CHECKING:
    from torch import nn

    from ftcli.core.run import Run


@dataclass
class LearningRates(Callback):
    """Multiplies the rates of the parameters whose names match a pattern; the first that matches counts."""

    factors: dict[str, float]  # pattern of names with * -> factor of optimizer.lr

    def check_model(self, model: nn.Module) -> None:
        """Refuse a pattern that matches nothing that is trained.

        Raises:
            UserError: names the pattern, and a parameter that is trained.
        """
        find_factors(list_trained(model), self.factors)

    def setup(self, run: Run) -> None:
        """Set the rates of the optimizer's groups."""
        factors = find_factors(list_trained(run.model), self.factors)
        scale_rates(run.optimizer_builder.optimizer, factors, run.model)


def find_factors(names: list[str], patterns: dict[str, float]) -> dict[str, float]:
    """Return name -> factor for every name that a pattern matches.

    Raises:
        UserError: a pattern matches no name.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"the pattern '{pattern}' matches no trained parameter; one of them is {names[0]}.",
                where="callback",
                fix=f"a pattern such as '*.{'.'.join(names[0].split('.')[-4:-2])}.*'",
            )
    matches = {name: [p for p in patterns if fnmatchcase(name, p)] for name in names}
    return {name: patterns[found[0]] for name, found in matches.items() if found}
