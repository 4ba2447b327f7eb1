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
    """Which layers have deltas, and the budget of entries in one of three forms.

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
        budgets = [v for v in (self.density, self.num_weights, self.rank) if v is not None]
        if len(budgets) > 1:
            raise ValueError("density, num_weights and rank each set the budget: give one of them")
        if not budgets:
            self.density = 0.01

    def budget(self, model: nn.Module, targets: list[nn.Module]) -> int:
        """Return the number of entries of all layers together.

        Raises:
            ValueError: the budget is not positive, or exceeds the weights of the layers.
        """
        weights = sum(_count_weights(module) for module in targets)
        if self.rank is not None:
            total = self.rank * sum(_sum_sides(module) for module in targets)
        elif self.num_weights is not None:
            total = self.num_weights
        else:
            total = int((self.density or 0.0) * count_parameters(model))
        if not 0 < total <= weights:
            raise ValueError(f"a budget of {total} entries for {weights} weights")
        return total


class _SparseLinear(torch.autograd.Function):
    """x -> x W'^T + bias with W' = W + scatter(values).

    The gradient of `values` is that of W' at their positions; the gradient of the whole matrix is
    freed at the end of the layer's backward.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, indices: Tensor, layer: Any
    ) -> Tensor:
        ctx.save_for_backward(x, values, indices)
        ctx.layer = layer
        return cast(Tensor, layer.apply_weight(x, layer.add_deltas(values, indices, x.dtype), bias))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, values, indices), layer = ctx.saved_tensors, ctx.layer
        x_gradient = values_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            weight = layer.add_deltas(values, indices, x.dtype)
            x_gradient = layer.apply_transposed(gradient, weight)
        flat = gradient.reshape(-1, gradient.shape[-1])
        if ctx.needs_input_grad[1]:
            dense = layer.weight_gradient(flat, x.reshape(-1, x.shape[-1]))
            if layer.observer is not None:
                layer.observer(dense)
            values_gradient = dense.view(-1)[indices].to(values.dtype)
        if ctx.needs_input_grad[2]:
            bias_gradient = flat.sum(0)
        return x_gradient, values_gradient, bias_gradient, None, None


class SpIELLinear(TunerLayer):
    """A frozen linear layer with sparse deltas.

    Positions are those of the flattened base weight, whose layout is [out, in].

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
        """Shape of the base weight in its stored layout, unpacked."""
        base: Any = self.get_base_layer()
        return int(base.out_features), int(base.in_features)

    def add(self, adapter: str, config: SpIELConfig) -> None:
        """Add zero values at random positions, ascending.

        Raises:
            ValueError: the budget leaves no entry for this matrix.
        """
        device = cast(Any, self.get_base_layer()).weight.device
        numel = self.shape[0] * self.shape[1]
        total, weights = cast(Any, config).shares
        count, kind = total * numel // weights, torch.int32 if numel < 2**31 else torch.int64
        if not count:
            raise ValueError(
                f"a budget of {total} entries leaves none for a matrix of {numel} weights"
            )
        if device.type == "meta":
            places = torch.empty(count, dtype=kind, device=device)
        else:
            places = torch.randperm(numel)[:count].sort().values.to(device, kind)
        self.spiel_indices[adapter] = places
        self.spiel_values[adapter] = nn.Parameter(torch.zeros(count, device=device))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the base layer with the deltas added to its weight: x [..., in] -> [..., out]."""
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

    def add_deltas(self, values: Tensor, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the base weight plus the deltas, a new tensor; packed weights are unpacked."""
        base = self.get_base_weight()
        weight = base.to(dtype, copy=self.quantization_backend is None)
        weight.view(-1).scatter_add_(0, indices.long(), values.detach().to(dtype))
        return weight

    def delta(self, adapter: str) -> Tensor:
        """Return the deltas of an adapter in a matrix of zeros."""
        values = self.spiel_values[adapter]
        dense = torch.zeros(self.shape, dtype=values.dtype, device=values.device)
        dense.view(-1)[self.spiel_indices[adapter]] = values.detach()
        return dense

    @staticmethod
    def apply_weight(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x W^T + bias for a weight [out, in]."""
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def apply_transposed(gradient: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of the input."""
        return gradient @ weight

    @staticmethod
    def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
        """Return the gradient [out, in] of the weight, from [tokens, out] and [tokens, in]."""
        return gradient.T @ x


class SpIELConv1D(SpIELLinear):
    """Sparse deltas of GPT-2's layers, whose weight is stored [in, out]."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the base weight in its stored layout."""
        base: Any = self.get_base_layer()
        return int(base.nx), int(base.nf)

    @staticmethod
    def apply_weight(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x W + bias for a weight [in, out]."""
        return nn.functional.linear(x, weight.T, bias)

    @staticmethod
    def apply_transposed(gradient: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of the input."""
        return gradient @ weight.T

    @staticmethod
    def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
        """Return the gradient [in, out] of the weight, from [tokens, out] and [tokens, in]."""
        return x.T @ gradient


class SpIELModel(Tuner):
    """Tuner that gives every target its share of the budget."""

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
        if targets:  # where there are none, PEFT raises the error
            config.shares = (config.budget(model, targets), sum(map(_count_weights, targets)))


def _count_weights(module: Any) -> int:
    return true_numel(module, "weight", module.weight)


def _sum_sides(module: Any) -> int:
    linear = hasattr(module, "in_features")
    return int(module.in_features + module.out_features if linear else module.nx + module.nf)


register("spiel", SpIELConfig, SpIELModel)
