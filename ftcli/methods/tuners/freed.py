"""Base class of adapters that hold a layer's weight in a form of their own, so that the dense one is freed."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import TunerLayer


class FreedWeightLayer(TunerLayer):
    """A linear layer whose weight W is freed once an adapter has taken it over; merging puts a dense one back.

    A subclass calls `release_weight` after it has taken W over, and defines `compute_weight` and
    `compute_base_weight`.

    Attributes:
        transposed: whether the base layer is GPT-2's Conv1D, which stores its weight as [in, out].
        weight_dtype: dtype of W, in which a merged weight is.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        base: Any = self.get_base_layer()
        self.transposed = isinstance(base, Conv1D)
        self.weight_dtype: torch.dtype = base.weight.dtype
        self._beside_merged: nn.Parameter | None = None  # the base's weight while one is merged

    @property
    def dense(self) -> Tensor:
        """W [out, in], of a layer that still has it."""
        weight: Any = self.get_base_layer().weight
        return weight.T if self.transposed else weight

    @property
    def is_freed(self) -> bool:
        """Whether W is gone."""
        weight: Any = self.get_base_layer().weight
        return weight.numel() == 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (out) and columns (in) of W."""
        base: Any = self.get_base_layer()
        sizes = (base.nf, base.nx) if self.transposed else (base.out_features, base.in_features)
        return int(sizes[0]), int(sizes[1])

    def compute_weight(self, adapter: str) -> Tensor:
        """Return the weight that the layer multiplies with under an adapter, float32 [out, in]."""
        raise TypeError(f"{type(self).__name__} does not define it")  # pragma: no cover

    def compute_base_weight(self) -> Tensor | None:
        """Return the weight without the adapters, float32 [out, in]; None where it is W, which is still there.

        Raises:
            ValueError: there is none.
        """
        raise TypeError(f"{type(self).__name__} does not define it")  # pragma: no cover

    def release_weight(self) -> None:
        """Free W. What remains is int8, since models ask a weight for its dtype and cast to floating ones."""
        base: Any = self.get_base_layer()
        empty = torch.empty(0, dtype=torch.int8, device=base.weight.device)
        base.weight = nn.Parameter(empty, requires_grad=False)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put the trained weight in the place of W.

        Raises:
            ValueError: more than one adapter is to be merged, or the weight is not finite (safe_merge).
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self._adapter_values():
                continue
            if self.merged:
                raise ValueError("each adapter has a whole weight of its own; merge one")
            weight = self.compute_weight(adapter)
            if safe_merge and not torch.isfinite(weight).all():
                raise ValueError(f"merging {adapter} gives values that are not finite")
            base: Any = self.get_base_layer()
            self._beside_merged = base.weight
            self._set_dense(weight)
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Return to the form of the adapter."""
        base: Any = self.get_base_layer()
        if self._beside_merged is not None:
            base.weight = self._beside_merged
        self._beside_merged, self.merged_adapters = None, []

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the plain layer, with the trained weight (merge) or with that without adapters."""
        if merge:
            self.merge(safe_merge, adapter_names)
        else:
            self.unmerge()
            weight = self.compute_base_weight()
            if weight is not None:
                self._set_dense(weight)
        return self.get_base_layer()

    def add_bias(self, out: Tensor) -> Tensor:
        """Add the base layer's bias, if it has one, to a product [.., out]."""
        bias: Any = self.get_base_layer().bias
        return out if bias is None else out + bias.to(out.dtype)

    def _set_dense(self, weight: Tensor) -> None:
        base: Any = self.get_base_layer()
        shaped = weight.T.contiguous() if self.transposed else weight
        base.weight = nn.Parameter(shaped.to(self.weight_dtype), requires_grad=False)
