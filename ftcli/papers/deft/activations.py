"""Find the activation modules inside the MLPs of a model, and mask the positions of real tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.methods.calibration import sequence_numbers
from ftcli.models.anatomy import ATTENTION_MARKS, Anatomy, Stack

#: Modules that define classes of activations, and the classes in them that are no activations.
ACTIVATION_MODULES = ("torch.nn.modules.activation", "transformers.activations")
NOT_ACTIVATIONS = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)
#: Attribute names of activation modules in transformers, where the model defines the class.
ACTIVATION_NAMES = (
    "act",
    "act_fn",
    "activation_fn",
    "activation",
    "intermediate_act_fn",
    "gelu_impl",
)


@dataclass(frozen=True)
class MlpActivation:
    """One activation module: its name in the base model, and the role of its stack."""

    name: str
    module: nn.Module
    role: str  # encoder or decoder


def mlp_activations(model: nn.Module, tap: str | None = None) -> list[MlpActivation]:
    """Return the activation module of each MLP, in the order of the model, with or without adapters.

    These are leaf modules of a block that are activations by class or name, outside attention. In a
    gated MLP the output is act(gate), before the product with the other half.

    Args:
        tap: last parts of the modules' names (`mlp.act_fn`), by which to select them instead.

    Raises:
        UserError: no module matches.
    """
    anatomy = Anatomy(model)
    modules = anatomy.modules
    activations = [
        MlpActivation(name, module, stack.role)
        for stack in anatomy.stacks
        for name, module in modules.items()
        if _is_inside(stack, name)
        and (_has_suffix(name, tap) if tap else _is_activation(name, modules))
    ]
    if not activations:
        raise UserError(
            f"no MLP of this model has an activation module{f' called {tap}' if tap else ''}.",
            fix="tap=NAME, the end of the names of the activation modules",
        )
    return activations


class RealTokens:
    """Masks of the positions of an activation that belong to tokens of the batch.

    Padding, also at the end of a packed row, and soft prompts in front are masked out. In the decoder
    of an encoder-decoder the tokens are those of the labels.
    """

    def __init__(self, batch: dict[str, Any], encoder_decoder: bool = False) -> None:
        self.batch, self._encoder_decoder = batch, encoder_decoder
        self._masks: dict[tuple[Any, ...], Tensor] = {}

    def mask(self, values: Tensor, role: str) -> Tensor:
        """Return the mask: bool, of the shape of `values` without its last dimension, on its device.

        Args:
            values: [B, S, ..] or flattened [B * S, ..].
            role: encoder or decoder.

        Raises:
            UserError: `values` does not have one position for each token, as behind a router of
                experts.
        """
        key = (values.shape[:-1], values.device, role)
        if key not in self._masks:
            self._masks[key] = self._build_mask(values, role)
        return self._masks[key]

    def _build_mask(self, values: Tensor, role: str) -> Tensor:
        real = (
            sequence_numbers(self.batch, decoder=self._encoder_decoder and role == "decoder") >= 0
        )
        rows, length = real.shape
        places = values.shape[:-1].numel()
        width = places // rows
        if places % rows or width < length:
            raise UserError(
                f"an activation has {places} positions where the batch has {rows} x {length} tokens.",
                fix="tap=NAME of a module that every token passes; experts get only some of them",
            )
        extra = width - length  # padding behind a packed row, else soft prompts in front
        padding = (0, extra) if "lengths" in self.batch else (extra, 0)
        padded = nn.functional.pad(real, padding, value=False)
        return padded.reshape(values.shape[:-1]).to(values.device, non_blocking=True)


def is_encoder_decoder(model: Any) -> bool:
    """Whether the model has an encoder and a decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _is_inside(stack: Stack, name: str) -> bool:
    return name.startswith(f"{stack.name}.")


def _has_suffix(name: str, tap: str) -> bool:
    return name == tap or name.endswith(f".{tap}")


def _is_activation(name: str, modules: dict[str, nn.Module]) -> bool:
    module = modules[name]
    parent, _, attribute = name.rpartition(".")
    if next(module.children(), None) is not None or isinstance(module, NOT_ACTIVATIONS):
        return False
    known = type(module).__module__ in ACTIVATION_MODULES or attribute in ACTIVATION_NAMES
    return known and not any(hasattr(modules[parent], mark) for mark in ATTENTION_MARKS)
