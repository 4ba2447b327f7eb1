"""The activation modules inside the MLPs of a model, and which of the values they give are of real tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.methods.calibration import sequence_numbers
from ftcli.models.anatomy import ATTENTION_MARKS, Anatomy, Stack

#: Where classes of activations live; of torch's own, those that are none.
HOMES = ("torch.nn.modules.activation", "transformers.activations")
NO_ACTIVATION = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)
#: What transformers calls them where the class is the model's own.
NAMES = ("act", "act_fn", "activation_fn", "activation", "intermediate_act_fn", "gelu_impl")


@dataclass(frozen=True)
class MlpActivation:
    """One activation module: its name in the base model, and the stack it stands in."""

    name: str
    module: nn.Module
    role: str  # encoder or decoder


def mlp_activations(model: nn.Module, tap: str | None = None) -> list[MlpActivation]:
    """One for each MLP, in the order of the model; under adapters as on the bare model.

    They are leaves of a block that are activations by class or name, outside attention. In a gated
    MLP that is act(gate), before the product with the other half.

    Args:
        tap: last parts of the names of the modules instead (`mlp.act_fn`).

    Raises:
        UserError: there are none.
    """
    anatomy = Anatomy(model)
    modules = anatomy.modules
    found = [
        MlpActivation(name, module, stack.role)
        for stack in anatomy.stacks
        for name, module in modules.items()
        if _in(stack, name) and (_ends(name, tap) if tap else _is_activation(name, modules))
    ]
    if not found:
        raise UserError(
            f"no MLP of this model has an activation module{f' called {tap}' if tap else ''}.",
            fix="tap=NAME, the end of the names of the modules to look at",
        )
    return found


class RealTokens:
    """Which places of a tensor that layers pass along belong to tokens of the batch.

    Padding, the filling of a packed row and soft prompts in front do not. In the decoder of an
    encoder-decoder the tokens are those of the labels.
    """

    def __init__(self, batch: dict[str, Any], encodes_and_decodes: bool = False) -> None:
        self.batch, self._two = batch, encodes_and_decodes
        self._masks: dict[tuple[Any, ...], Tensor] = {}

    def mask(self, values: Tensor, role: str) -> Tensor:
        """bool of the shape of `values` but for its last dimension, on its device.

        Args:
            values: [B, S, ..] or flattened [B * S, ..].

        Raises:
            UserError: the values are not one a token, as behind a router of experts.
        """
        key = (values.shape[:-1], values.device, role)
        if key not in self._masks:
            self._masks[key] = self._made(values, role)
        return self._masks[key]

    def _made(self, values: Tensor, role: str) -> Tensor:
        real = sequence_numbers(self.batch, decoder=self._two and role == "decoder") >= 0
        rows, length = real.shape
        places = values.shape[:-1].numel()
        width = places // rows
        if places % rows or width < length:
            raise UserError(
                f"an activation has {places} places where the batch has {rows} x {length} tokens.",
                fix="tap=NAME of a module that every token passes; experts see some of them only",
            )
        spare = width - length
        side = (
            (0, spare) if "lengths" in self.batch else (spare, 0)
        )  # filling behind, prompts before
        padded = nn.functional.pad(real, side, value=False)
        return padded.reshape(values.shape[:-1]).to(values.device, non_blocking=True)


def is_encoder_decoder(model: Any) -> bool:
    """Whether the model has both."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _in(stack: Stack, name: str) -> bool:
    return name.startswith(f"{stack.name}.")


def _ends(name: str, tap: str) -> bool:
    return name == tap or name.endswith(f".{tap}")


def _is_activation(name: str, modules: dict[str, nn.Module]) -> bool:
    module = modules[name]
    parent, _, own = name.rpartition(".")
    if next(module.children(), None) is not None or isinstance(module, NO_ACTIVATION):
        return False
    known = type(module).__module__ in HOMES or own in NAMES
    return known and not any(hasattr(modules[parent], mark) for mark in ATTENTION_MARKS)
