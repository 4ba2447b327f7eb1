"""Train the model's own weights, all of them or those whose names match patterns."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ftcli.core.errors import Problems, UserError
from ftcli.methods.base import (
    Method,
    check_names,
    model_name,
    quantisation_of,
    suggest_plain_weights,
)
from ftcli.models.heads import get_new_modules
from ftcli.models.hub import quiet_progress_bars


class Full(Method):
    """Finetune without adapters.

    Args:
        train: patterns of parameter names (`*.bias`, `model.layers.3.*`); null trains everything. A
            new head is always trained.
    """

    quantisable: ClassVar[bool] = False
    shardable: ClassVar[bool] = True
    artefact: ClassVar[Literal["adapter", "model"]] = "model"
    formula: ClassVar[str] = "all parameters, or those that `train` names"

    def __init__(self, train: list[str] | None = None) -> None:
        self.train = train
        self._trained: tuple[str, ...] = ()

    @property
    def keeps_base(self) -> bool:
        """False: the base itself is trained."""
        return False

    def prepare(self, model: nn.Module) -> nn.Module:
        """Set requires_grad on exactly the parameters that are trained.

        Raises:
            UserError: the base is quantised, or a pattern matches nothing.
        """
        self._refuse_quantised(model)
        names = [name for name, _ in model.named_parameters()]
        patterns = ["*"] if self.train is None else self.train
        unmatched = [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]
        Problems.raise_if_any([_no_match(pattern, names, model) for pattern in unmatched])
        patterns = [*patterns, *(f"{module}.*" for module in get_new_modules(model))]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(fnmatchcase(name, p) for p in patterns))
        self._trained = tuple(n for n, p in model.named_parameters() if p.requires_grad)
        return model

    def get_trained_tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return every trained tensor under its name in the model; tied ones once.

        These are the parameters that `prepare` chose; a trainable policy may have frozen some since.
        """
        named = dict(model.named_parameters())
        return {name: named[name].detach() for name in self._trained}

    def load_trained_tensors(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors into the model's parameters, in place.

        Raises:
            UserError: names differ from those of the trained parameters.
        """
        current = self.get_trained_tensors(model)
        check_names(
            sorted(current.keys() - tensors.keys()), sorted(tensors.keys() - current.keys())
        )
        for name, tensor in current.items():
            tensor.copy_(tensors[name])

    def describe(self) -> dict[str, Any]:
        """Return the method's name and the patterns."""
        return {"method": "full", "train": self.train}

    def save(self, model: Any, folder: str | Path) -> None:
        """Write a transformers folder."""
        with quiet_progress_bars():
            model.save_pretrained(folder)

    def _refuse_quantised(self, model: nn.Module) -> None:
        if quantisation_of(model) is not None:
            raise UserError(
                "method=full trains the model's own weights, and quantised weights have no "
                "gradient.",
                where="model.quantization",
                fix=suggest_plain_weights(model),
            )


def _no_match(pattern: str, names: list[str], model: nn.Module) -> UserError:
    return UserError(
        f"'{pattern}' matches 0 of {len(names)} parameters of {model_name(model)} "
        f"(an example of a name: {names[len(names) // 2]!r}).",
        where="method.train",
    )
