"""The PEFT tuner of WeLore: factors in the place of some weights, trained dense weights in that of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from peft.utils import PeftType
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.methods.tuners.freed import FreedWeightLayer
from ftcli.models.mixed_precision import get_product_dtype
from ftcli.papers.welore.ranks import Allocation, allocate_ranks, factorise


@dataclass
class WeloreConfig(PeftConfig):
    """Which matrices are factored, at which rank, and which are trained."""

    target_modules: list[str] | str | None = None  # linear layers that are considered
    exclude_modules: list[str] | str | None = None  # target layers that are left as they are
    modules_to_save: list[str] | None = None  # layers trained whole, such as a new head
    target_rank_reduction: float = 0.5  # share of the ranks of all targets together to remove
    tau: float | None = None  # threshold on normalised singular values; null: from the share above
    allocation: Allocation = "threshold"  # of ranks: threshold, or uniform (an equal share of each)
    min_ratio: float = 0.4999  # a matrix that would lose no more than this share stays dense
    train: Literal["factored", "dense", "all"] = "factored"  # which of the targets are trained
    ranks: dict[str, int] | None = None  # layer -> rank that is kept; null: by singular values

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: a share is not between 0 and 1, or a choice is unknown.
        """
        super().__post_init__()
        self.peft_type = PeftType("WELORE")
        if not 0 < self.target_rank_reduction < 1:
            raise ValueError(
                f"target_rank_reduction={self.target_rank_reduction} is not between 0 and 1"
            )
        if self.allocation not in ("threshold", "uniform"):
            raise ValueError(
                f"allocation={self.allocation!r} is unknown; choose threshold or uniform"
            )
        if self.train not in ("factored", "dense", "all"):
            raise ValueError(f"train={self.train!r} is unknown; choose factored, dense or all")


class WeloreLinear(FreedWeightLayer):
    """x V^T U^T with U [out, k] and V [k, in], or x W^T with a trained W; the base's own weight is freed.

    Attributes:
        kept: adapter -> rank that is kept; min(in, out) where the weight stays dense.
    """

    adapter_layer_names = ("welore_U", "welore_V", "welore_W")
    welore_U: nn.ParameterDict
    welore_V: nn.ParameterDict
    welore_W: nn.ParameterDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.kept: dict[str, int] = {}
        self.frozen_peft_weight_names = {}  # PEFT's own is one dictionary for all layers

    def add(self, adapter: str, config: WeloreConfig) -> None:
        """Take the weight over, in its dtype, and free it.

        A configuration for inference comes with a file of factors: no SVD is made then, and they are not
        numbers until they are loaded.

        Raises:
            ValueError: another adapter has taken it already.
        """
        if self.is_freed:
            raise ValueError(
                "a model holds one adapter of WeLore: it takes the place of the base's weights"
            )
        weight, rank = self.dense.detach(), self.kept[adapter]
        if rank == min(self.shape):
            self.welore_W[adapter] = nn.Parameter(weight.clone())
        else:
            if config.inference_mode or weight.is_meta:
                unknown = torch.full((sum(self.shape), rank), torch.nan, device=weight.device)
                up, down = unknown[: self.shape[0]], unknown[self.shape[0] :].T
            else:
                up, down = factorise(weight, rank)
            self.welore_U[adapter] = nn.Parameter(up.to(weight.dtype, copy=True))
            self.welore_V[adapter] = nn.Parameter(down.contiguous().to(weight.dtype))
        if config.train == "dense":
            self.frozen_peft_weight_names[adapter] = ("welore_U", "welore_V")
        self.release_weight()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map [.., in] to [.., out].

        Raises:
            ValueError: the adapter is switched off, and the base's weight was freed for it.
        """
        active = self.adapters_in_effect()
        if not active:
            if self.is_freed:
                raise ValueError(f"{REPLACED}, so that there is nothing to switch back to")
            return self.base_layer(x)
        weights = [
            parts[active[0]]
            for parts in (self.welore_W, self.welore_V, self.welore_U)
            if active[0] in parts
        ]
        out = self._cast_input_dtype(x, weights[0].dtype)
        for weight in weights:
            out = linear(out, weight)
        return self.add_bias(out.to(get_product_dtype(x)))

    @torch.no_grad()
    def compute_weight(self, adapter: str) -> Tensor:
        """Return U V, or the trained W, float32 [out, in]."""
        if adapter in self.welore_W:
            return self.welore_W[adapter].float()
        return self.welore_U[adapter].float() @ self.welore_V[adapter].float()

    def compute_base_weight(self) -> Tensor | None:
        """Raise, unless the base still has its weight.

        Raises:
            ValueError: it was freed.
        """
        if self.is_freed:
            raise ValueError(f"{REPLACED}; merge the adapter instead of unloading it")
        return None

    def _adapter_values(self) -> Any:
        return {**self.welore_W, **self.welore_U}


REPLACED = "WeLore has put factors in the place of the base's weights"


class WeloreModel(Tuner):
    """Puts `WeloreLinear` around those targets that are factored or trained, GPT-2's Conv1D included.

    A fused layer (query, key and value in one) is decomposed as the one matrix that it is.
    """

    prefix, tuner_layer_cls = "welore_", WeloreLinear
    layers = {nn.Linear: WeloreLinear, Conv1D: WeloreLinear}  # noqa: RUF012

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Choose the ranks, where the configuration has none, then inject as PEFT does.

        Raises:
            ValueError: no matrix is to be trained.
        """
        config: Any = self.peft_config[adapter_name]
        if config.ranks is None:
            targets = self._targets(model, config)
            config.ranks = choose_ranks(targets, config)
            config.target_modules = list_wrapped(targets, config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def add_adapter_to_layer(self, layer: TunerLayer, adapter: str, config: Any, name: str) -> None:
        """Add an adapter of the rank that was chosen for this layer."""
        assert isinstance(layer, WeloreLinear)
        layer.kept[adapter] = config.ranks[name]
        super().add_adapter_to_layer(layer, adapter, config, name)

    def _targets(self, model: nn.Module, config: Any) -> dict[str, nn.Module]:
        _maybe_include_all_linear_layers(config, model)
        kinds: tuple[type[nn.Module], ...] = tuple(self.layers)
        return {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, kinds) and self._check_target_module_exists(config, name)
        }


def choose_ranks(targets: dict[str, Any], config: WeloreConfig) -> dict[str, int]:
    """Return layer -> rank that is kept.

    On the meta device there are no singular values: plans assume an equal share of every matrix.
    """
    if any(layer.weight.is_meta for layer in targets.values()):
        sizes = {n: torch.empty(min(layer.weight.shape)) for n, layer in targets.items()}
        return allocate_ranks(sizes, config.target_rank_reduction, None, "uniform", 0)
    spectra = {n: torch.linalg.svdvals(layer.weight.float()) for n, layer in targets.items()}
    return allocate_ranks(
        spectra, config.target_rank_reduction, config.tau, config.allocation, config.min_ratio
    )


def list_wrapped(targets: dict[str, Any], config: WeloreConfig) -> list[str]:
    """Return the layers that change or are trained.

    Raises:
        ValueError: none of those to be trained is there.
    """
    assert config.ranks is not None
    factored = [n for n, m in targets.items() if config.ranks[n] < min(m.weight.shape)]
    dense = [name for name in targets if name not in factored]
    if not {"factored": factored, "dense": dense, "all": targets}[config.train]:
        raise ValueError(
            f"of {len(targets)} matrices none is {config.train}, so nothing is trained; target_rank_reduction="
            f"{config.target_rank_reduction} and min_ratio={config.min_ratio} decide how many are factored"
        )
    return factored if config.train == "factored" else list(targets)


register("welore", WeloreConfig, WeloreModel)
