"""Scaling of adapters inside chosen blocks, for any PEFT tuner that has a scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy


def find_scaled_layers(model: nn.Module, blocks: Iterable[int]) -> list[Any]:
    """Return the adapted layers inside the blocks, which multiply their adapter by `scaling[name]`.

    Args:
        blocks: indices into `Anatomy.blocks`, through all stacks of the model.

    Raises:
        UserError: there is no such layer, or one has an adapter without a scale.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    every = Anatomy(model).blocks
    layers: list[Any] = [
        module
        for number in blocks
        for module in every[number][1].modules()
        if isinstance(module, BaseTunerLayer)
    ]
    if not layers:
        raise _damping_error("the method puts no adapter layers into the blocks")
    for layer in layers:
        scaling = getattr(layer, "scaling", None)
        if not isinstance(scaling, dict) or not set(layer.active_adapters) & scaling.keys():
            raise _damping_error(f"{_tuner(layer)} has no scale to multiply")
    return layers


@contextmanager
def damp_adapters(model: nn.Module, blocks: Iterable[int], factor: float) -> Iterator[None]:
    """Multiply the scale of the adapters in the blocks by a factor, inside the context.

    LoRA and its variants add scale * adapter(x), which is multiplied by the factor. DoRA scales the change
    before its normalisation: the direction moves towards that of the base, the magnitude stays.

    Raises:
        UserError: see `find_scaled_layers`.
    """
    layers = find_scaled_layers(model, blocks)
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer, scales in zip(layers, before, strict=True):
            layer.scaling.update({name: scale * factor for name, scale in scales.items()})
        yield
    finally:
        for layer, scales in zip(layers, before, strict=True):
            layer.scaling.update(scales)


def _tuner(layer: Any) -> str:
    """Return the name of a layer's tuner: `lora` for peft.tuners.lora.layer.Linear."""
    return type(layer).__module__.split(".")[-2]


def _damping_error(why: str) -> UserError:
    return UserError(
        f"adapters cannot be damped: {why}.",
        where="method",
        fix="method=lora or method=dora, or trainable=rst, which damps nothing",
    )
