"""LoRA whose initial product is subtracted from the base: W' = W - scale * B0 A0."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ftcli.config.classpath import ClassPath
from ftcli.core.errors import UserError
from ftcli.core.ranks import broadcast_tensor
from ftcli.methods.base import check_names, quantisation_of
from ftcli.methods.peft import ADAPTER, Peft

if TYPE_CHECKING:
    from ftcli.core.run import Run

INITIAL = "initial."  # prefix of the names of A0 and B0 in a checkpoint
FACTORS = ("lora_A", "lora_B")


class ShiftedLora(Peft):
    """Base class of initialisations from data; a subclass gives the initial factors of each layer.

    `prepare` adds an ordinary LoRA; `setup` writes A0 and B0 into it and subtracts scale * B0 A0 from the
    base, so that the model computes the same as before. A checkpoint holds A0 and B0 beside the trained
    A and B, from which the base can be shifted again. `save` writes an adapter for the original base:
    W' + scale * B A = W + scale * [B, -B0] [A; A0], an ordinary LoRA of rank 2r.

    Args:
        config_class: peft.LoraConfig or a subclass of it.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: adapter weights in float32 also where the base has half precision.
    """

    quantisable: ClassVar[bool] = False

    def __init__(
        self,
        config_class: ClassPath = "peft.LoraConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(config_class, targets_strict, autocast_adapter_dtype, **options)
        self._initial: dict[
            str, Tensor
        ] = {}  # A0, B0 under the names of the trained tensors; empty: no shift
        self._base_source: tuple[Any, int] | None = (
            None  # source of the base, seed of its new weights
        )

    @property
    def keeps_base(self) -> bool:
        """False: with the adapter off the shifted base remains."""
        return False

    @abstractmethod
    def factors(self, run: Run, layers: Mapping[str, Any]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield name, A0 [r, in] and B0 [out, r] of layers; layers not yielded keep LoRA's initialisation.

        Args:
            run: the run with its prepared model.
            layers: name -> LoRA layer on the unshifted base; `weight_of` gives its weight.
        """

    def prepare(self, model: Any) -> nn.Module:
        """Add an ordinary LoRA on linear layers that share no weight.

        Raises:
            UserError: the base is quantised, or a target cannot be shifted.
        """
        if quantisation_of(model) is not None:
            raise self._make_quantised_error("its initialisation changes the base's weights")
        self._initial, self._base_source = {}, None
        wrapped = super().prepare(model)
        _refuse_unshiftable(wrapped)
        return wrapped

    def setup(self, run: Run) -> None:
        """Compute A0 and B0, write them into the adapter and shift the base by them."""
        model = run.model
        self._shift(model, {})
        self._base_source = (run.model_source, run.seed)
        layers = lora_layers(model)
        with torch.no_grad():
            for name, *pair in self.factors(run, layers):
                for part, value in zip(FACTORS, pair, strict=True):
                    _weight(layers[name], part).copy_(_broadcast_first_rank(run, value))
        initial = {key: tensor.clone() for key, tensor in _current_factors(model).items()}
        self._shift(model, initial)

    def get_trained_tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the adapter's tensors, and A0 and B0 by which the base was shifted."""
        return super().get_trained_tensors(model) | {
            INITIAL + key: t for key, t in self._initial.items()
        }

    def load_trained_tensors(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors into the adapter and shift the base by their A0 and B0, whatever it was before.

        Raises:
            UserError: names differ from those of this adapter.
        """
        initial = {k[len(INITIAL) :]: t for k, t in tensors.items() if k.startswith(INITIAL)}
        names = {INITIAL + key for key in _current_factors(model)} if initial else set()
        prefixed = {INITIAL + key for key in initial}
        check_names(sorted(names - prefixed), sorted(prefixed - names))
        shift, self._initial = (
            self._initial,
            {},
        )  # Peft.load_trained_tensors compares with the state without them
        try:
            super().load_trained_tensors(
                model, {k: t for k, t in tensors.items() if k not in prefixed}
            )
        finally:
            self._initial = shift
        self._shift(model, initial)

    def describe(self) -> dict[str, Any]:
        """Return PEFT's adapter_config.json of the trained factors, with a note on the shifted base."""
        if not self._initial:
            return super().describe()
        return super().describe() | {
            "shifted": f"weights of the base less scaling * B0 A0, which are {INITIAL}*"
        }

    def save(self, model: Any, folder: str | Path) -> None:
        """Write a LoRA of rank 2r for the original base, in PEFT's layout."""
        if not self._initial:
            return super().save(model, folder)
        tensors = dict(model.state_dict())
        for key, start in self._initial.items():
            name, sign = _adapter_key(key), -1 if "lora_B" in key else 1
            trained = tensors[name]
            both = [trained, sign * start.to(trained)]
            tensors[name] = torch.cat(both, dim=1 if "lora_B" in key else 0)
        with _double_rank(model):
            model.save_pretrained(folder, state_dict=tensors, save_embedding_layers=False)

    def _check_config(self, config: Any) -> Any:
        for name, plain in (("init_lora_weights", True), ("use_dora", False)):
            if getattr(config, name) != plain:
                raise UserError(
                    f"{type(self).__name__} is an initialisation of plain LoRA and does not support "
                    f"{name}={getattr(config, name)}.",
                    where=f"method.{name}",
                    fix=f"method.{name}={str(plain).lower()}, or method=lora",
                )
        return super()._check_config(config)

    @torch.no_grad()
    def _shift(self, model: nn.Module, initial: Mapping[str, Tensor]) -> None:
        """Set the base to the original less scale * B0 A0; equal factors give bit-equal weights."""
        known = self._initial
        if known.keys() == initial.keys() and all(
            torch.equal(known[key], t.to(known[key])) for key, t in initial.items()
        ):
            return
        if known:
            self._unshift(model)
        # Copies: tensors read from a file may have an alignment with which products round differently.
        self._initial = {k: t.to(_current_factors(model)[k], copy=True) for k, t in initial.items()}
        if initial:
            for name, layer in lora_layers(model).items():
                _subtract(layer, self._initial_product(name, layer))

    def _unshift(self, model: nn.Module) -> None:
        """Restore the original weights: load them again where their source is known, else add B0 A0."""
        if self._base_source is None:
            for name, layer in lora_layers(model).items():
                _subtract(layer, -self._initial_product(name, layer))
            return
        source, seed = self._base_source
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # as `Run` does, for weights that are new
            base = source.load("cpu")
        modules = dict(base.named_modules())
        for name, layer in lora_layers(model).items():
            original = modules[name.removeprefix("base_model.model.")]
            layer.get_base_layer().weight.copy_(original.weight)

    def _initial_product(self, name: str, layer: Any) -> Tensor:
        """Return scale * B0 A0, float32 [out, in]."""
        a, b = (self._initial[f"{name}.{part}.weight"].float() for part in FACTORS)
        return layer.scaling[ADAPTER] * (b @ a)


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """Return name in the wrapped model -> layer with the adapter."""
    from peft.tuners.lora import LoraLayer

    named = model.named_modules()
    return {n: m for n, m in named if isinstance(m, LoraLayer) and ADAPTER in m.r}


def weight_of(layer: Any) -> Tensor:
    """Return the base weight as [out, in]; GPT-2's layers store it transposed."""
    weight = layer.get_base_layer().weight
    return weight.T if layer.fan_in_fan_out else weight


def _weight(layer: Any, part: str) -> nn.Parameter:
    return getattr(layer, part)[ADAPTER].weight


def _current_factors(model: nn.Module) -> dict[str, Tensor]:
    """Return the current factors under the names of PEFT's state."""
    layers = lora_layers(model).items()
    return {f"{n}.{part}.weight": _weight(m, part).data for n, m in layers for part in FACTORS}


def _adapter_key(key: str) -> str:
    return f"{key.removesuffix('.weight')}.{ADAPTER}.weight"


def _subtract(layer: Any, change: Tensor) -> None:
    """Subtract in float32 and round once; a bfloat16 difference would lose the small change."""
    weight = weight_of(layer)
    weight.copy_(weight.float() - change)


def _broadcast_first_rank(run: Run, value: Tensor) -> Tensor:
    """Return the first rank's value, because signs of singular vectors may differ between devices."""
    return broadcast_tensor(run.accelerator, value)


@contextmanager
def _double_rank(model: Any) -> Iterator[None]:
    """Double the rank in the adapter's configuration, with the same scale, inside the context."""
    config = model.peft_config[ADAPTER]
    factor = math.sqrt(2) if config.use_rslora else 2  # scale is alpha / sqrt(r), else alpha / r
    wide = copy.deepcopy(config)
    wide.r, wide.lora_alpha = 2 * config.r, factor * config.lora_alpha
    wide.rank_pattern = {key: 2 * r for key, r in config.rank_pattern.items()}
    wide.alpha_pattern = {key: factor * alpha for key, alpha in config.alpha_pattern.items()}
    model.peft_config[ADAPTER] = wide
    try:
        yield
    finally:
        model.peft_config[ADAPTER] = config


def _refuse_unshiftable(model: nn.Module) -> None:
    """Refuse layers that are not linear, and tied weights, which would be shifted for all their layers."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    for name, layer in lora_layers(model).items():
        weight = layer.get_base_layer().weight
        if not hasattr(layer, "fan_in_fan_out") or weight.dim() != 2 or not layer.lora_A:
            why = "is not a linear layer"
        elif len(names[weight]) > 1:
            why = "shares its weight with another layer"
        else:
            continue
        raise UserError(
            f"{name.removeprefix('base_model.model.')} {why}, so that nothing can be subtracted from it.",
            where="method.target_modules",
            fix="method.target_modules=all-linear",
        )
