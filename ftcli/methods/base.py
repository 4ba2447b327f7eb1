"""The interface of methods: which weights are trained, and which tensors are saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ftcli.core.callback import Callback
from ftcli.core.errors import UserError
from ftcli.models.quantization import find_quantization_method


class Method(Callback, ABC):
    """Base of all methods. What is trained is what requires a gradient after `prepare`.

    Class attributes are capabilities, read from the source by configuration checks and tested:

        mergeable    `merge` gives a plain model that computes the same
        quantisable  the base may be quantised
        packable     documents may share one row; soft prompts precede a row, not each document
        averageable  a trained value means the same at every step, so that steps can be averaged
        shardable    it trains where each rank holds a part of every weight (trainer.strategy=fsdp2)
        artefact     what `save` writes: "adapter" (PEFT layout) or "model" (transformers layout)
        formula      number of trainable parameters, in words or symbols

    A configuration's `capabilities:` adds to these for one method, and overrides them:

        identity     the output at initialisation equals the base model's (default: true)
        models       kinds of model the contract is tested on (default: Llama)
        trainable    exact number of trainable parameters on the contract's tiny Llama
        optimizer    the one optimizer it works with
    """

    mergeable: ClassVar[bool] = True
    quantisable: ClassVar[bool] = True
    packable: ClassVar[bool] = True
    averageable: ClassVar[bool] = True
    shardable: ClassVar[bool] = False
    artefact: ClassVar[Literal["adapter", "model"]] = "adapter"
    formula: ClassVar[str] = ""

    @property
    def keeps_base(self) -> bool:
        """Whether the model without the method's additions is the pretrained model."""
        return True

    @abstractmethod
    def prepare(self, model: nn.Module) -> nn.Module:
        """Freeze or wrap the loaded model, in place where that is possible.

        Raises:
            UserError: the method does not fit this model.
        """

    def merge(self, model: nn.Module) -> nn.Module:
        """Return the trained model as a plain one, without modules that the method added."""
        return model

    @abstractmethod
    def get_trained_tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint, under stable names."""

    @abstractmethod
    def load_trained_tensors(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Load the tensors of `get_trained_tensors` into a model prepared by the same method.

        Raises:
            UserError: the tensors are those of another method or model.
        """

    def describe(self) -> dict[str, Any]:
        """Return plain data that describes the tensors of a checkpoint and is stored beside it."""
        return {}

    @abstractmethod
    def save(self, model: nn.Module, folder: str | Path) -> None:
        """Write the final artefact; it can be read without ftcli."""


def model_name(model: nn.Module) -> str:
    """Return the model's name for messages: the last part of the path that it was loaded from."""
    name = getattr(model, "name_or_path", "") or type(model).__name__
    return str(name).rstrip("/").rpartition("/")[2]


def quantisation_of(model: nn.Module) -> str | None:
    """Return how the weights are quantised ("bitsandbytes"); None where they are not."""
    return find_quantization_method(getattr(model, "config", None))


def suggest_plain_weights(model: nn.Module) -> str:
    """Return the fix for a method that needs plain weights, by whether the files are quantised already."""
    quantiser = getattr(model, "hf_quantizer", None)
    stored = quantiser is None or getattr(quantiser, "pre_quantized", False)
    if stored:  # the meta device has no quantiser, and its configuration comes from the files
        kind = quantisation_of(model)
        return f"method=lora, or model.path=the checkpoint before it was quantised ({kind})"
    return "model.quantization=none, or method=lora"


def check_shapes(current: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise when a checkpoint's tensor has another shape than the model's: copying would broadcast some.

    Raises:
        UserError: names the first such tensor, and how many there are.
    """
    other = [n for n, t in tensors.items() if n in current and current[n].shape != t.shape]
    if other:
        name = other[0]
        raise UserError(
            f"in the checkpoint {name!r} is {list(tensors[name].shape)}, in the model "
            f"{list(current[name].shape)} ({len(other)} such); it was written with another method or model.",
            where="method",
        )


def check_names(missing: list[str], unexpected: list[str]) -> None:
    """Raise when a checkpoint's tensors are not those of the model.

    Raises:
        UserError: there are missing or unexpected names.
    """
    for what, names in (("lacks", missing), ("has the unknown tensor", unexpected)):
        if names:
            raise UserError(
                f"the checkpoint {what} {names[0]!r} ({len(names)} such); it was written with "
                "another method or model.",
                where="method",
            )
