"""Sparse deltas of frozen linear layers (SpIEL, arXiv 2401.16405): k indices and k values a matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from peft import PeftConfig, PeftType
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.models.anatomy import count_parameters, true_numel


@dataclass
class SpIELConfig(PeftConfig):
    """How many entries of which layers have a delta; one of the three budgets.

    A matrix gets its share of the budget by its size: k = floor(budget * numel / sum of numels).
    """

    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Layers that get deltas: names, a pattern, or all-linear"}
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Layers that get none"}
    )
    density: float | None = field(
        default=None, metadata={"help": "Budget as a share of all parameters of the model; 0.01"}
    )
    num_weights: int | None = field(default=None, metadata={"help": "Budget in entries"})
    rank: int | None = field(
        default=None, metadata={"help": "Budget of a LoRA of this rank on the same layers"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = cast(Any, PeftType).SPIEL
        given = [v for v in (self.density, self.num_weights, self.rank) if v is not None]
        if len(given) > 1:
            raise ValueError("density, num_weights and rank are three ways to say one budget")
        if not given:
            self.density = 0.01

    def budget(self, model: nn.Module, targets: list[nn.Module]) -> int:
        """Entries of all layers together.

        Raises:
            ValueError: there are none, or more than the layers have.
        """
        weights = sum(_numel(module) for module in targets)
        if self.rank is not None:
            total = self.rank * sum(_sides(module) for module in targets)
        elif self.num_weights is not None:
            total = self.num_weights
        else:
            total = int((self.density or 0.0) * count_parameters(model))
        if not 0 < total <= weights:
            raise ValueError(f"a budget of {total} entries for {weights} weights")
        return total


class _SparseLinear(torch.autograd.Function):
    """x -> x W'^T + bias with W' = W + scatter(values): the gradient of `values` is that of W' at
    their positions, and no gradient of a whole matrix outlives its layer's backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, indices: Tensor, layer: Any
    ) -> Tensor:
        ctx.save_for_backward(x, values, indices)
        ctx.layer = layer
        return cast(Tensor, layer.apply_weight(x, layer.shifted(values, indices, x.dtype), bias))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, values, indices), layer = ctx.saved_tensors, ctx.layer
        of_x = of_values = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = layer.apply_transposed(gradient, layer.shifted(values, indices, x.dtype))
        flat = gradient.reshape(-1, gradient.shape[-1])
        if ctx.needs_input_grad[1]:
            dense = layer.weight_gradient(flat, x.reshape(-1, x.shape[-1]))
            if layer.observer is not None:
                layer.observer(dense)
            of_values = dense.view(-1)[indices].to(values.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = flat.sum(0)
        return of_x, of_values, of_bias, None, None


class SpIELLinear(TunerLayer):
    """A frozen linear layer with sparse deltas.

    Positions are those of the flattened base weight, whose layout is [out, in] here.

    Attributes:
        observer: called in backward with the gradient of the whole weight, which is then freed.
    """

    adapter_layer_names = ("spiel_values",)
    other_param_names = ("spiel_indices",)
    observer: Callable[[Tensor], None] | None = None
    spiel_values: nn.ParameterDict
    spiel_indices: BufferDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.spiel_indices = BufferDict({}, persistent=True)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the base weight as it is stored, unpacked."""
        base: Any = self.get_base_layer()
        return int(base.out_features), int(base.in_features)

    def add(self, adapter: str, config: SpIELConfig) -> None:
        """Zero values at random positions, ascending."""
        device = cast(Any, self.get_base_layer()).weight.device
        numel = self.shape[0] * self.shape[1]
        total, weights = cast(Any, config).shares
        count, kind = total * numel // weights, torch.int32 if numel < 2**31 else torch.int64
        if not count:
            raise ValueError(f"{total} entries leave none for a matrix of {numel} weights")
        if device.type == "meta":
            places = torch.empty(count, dtype=kind, device=device)
        else:
            places = torch.randperm(numel)[:count].sort().values.to(device, kind)
        self.spiel_indices[adapter] = places
        self.spiel_values[adapter] = nn.Parameter(torch.zeros(count, device=device))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Like the base layer, with the changed weight; x is [..., in]."""
        active = self.adapters_in_effect()
        if not active:
            return cast(Tensor, self.base_layer(x, *args, **kwargs))
        values = torch.cat([self.spiel_values[name] for name in active])
        indices = torch.cat([self.spiel_indices[name] for name in active])
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = cast(Any, self.get_base_layer()).bias
        bias = None if bias is None else bias.to(dtype)
        out = _SparseLinear.apply(x.to(dtype), values, bias, indices, self)
        return cast(Tensor, out)

    def shifted(self, values: Tensor, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """The base weight plus the deltas, a new tensor; packed weights are unpacked for it."""
        weight = self.get_base_weight()
        own = weight.to(dtype, copy=self.quantization_backend is None)
        own.view(-1).scatter_add_(0, indices.long(), values.detach().to(dtype))
        return own

    def delta(self, adapter: str) -> Tensor:
        """The deltas of an adapter in a matrix of zeros."""
        values = self.spiel_values[adapter]
        dense = torch.zeros(self.shape, dtype=values.dtype, device=values.device)
        dense.view(-1)[self.spiel_indices[adapter]] = values.detach()
        return dense

    @staticmethod
    def apply_weight(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's product."""
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def apply_transposed(gradient: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input."""
        return gradient @ weight

    @staticmethod
    def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
        """Gradient of the whole weight from [tokens, out] and [tokens, in]."""
        return gradient.T @ x


class SpIELConv1D(SpIELLinear):
    """The same on GPT-2's layers, whose weight is stored [in, out]."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of the base weight as it is stored."""
        base: Any = self.get_base_layer()
        return int(base.nx), int(base.nf)

    @staticmethod
    def apply_weight(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's product."""
        return nn.functional.linear(x, weight.T, bias)

    @staticmethod
    def apply_transposed(gradient: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input."""
        return gradient @ weight.T

    @staticmethod
    def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
        """Gradient of the whole weight from [tokens, out] and [tokens, in]."""
        return x.T @ gradient


class SpIELModel(Tuner):
    """Gives every target its share of the budget."""

    prefix = "spiel_"
    tuner_layer_cls = SpIELLinear
    layers: ClassVar[dict[type, type[TunerLayer]]] = {nn.Linear: SpIELLinear, Conv1D: SpIELConv1D}

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Count the targets before any of them is replaced: k depends on all of them."""
        super()._prepare_model(peft_config, model)
        config: Any = _maybe_include_all_linear_layers(peft_config, model)
        targets = [
            getattr(module, "base_layer", module)
            for name, module in model.named_modules()
            if name and self._check_target_module_exists(config, name)
        ]
        if targets:  # PEFT itself says so where there are none
            config.shares = (config.budget(model, targets), sum(map(_numel, targets)))


def _numel(module: Any) -> int:
    return true_numel(module, "weight", module.weight)


def _sides(module: Any) -> int:
    linear = hasattr(module, "in_features")
    return int(module.in_features + module.out_features if linear else module.nx + module.nf)


register("spiel", SpIELConfig, SpIELModel)
