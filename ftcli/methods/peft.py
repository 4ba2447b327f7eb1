"""The method for every adapter of the PEFT library that changes layers, configured by YAML."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ftcli.config.classpath import ClassPath, fetch_subclass
from ftcli.core.errors import Problems, UserError
from ftcli.core.ranks import get_local_shard
from ftcli.methods.all_linear import apply_selection, find_lost_on_loading, select_targets
from ftcli.methods.base import Method, check_names, model_name, quantisation_of
from ftcli.methods.fused_lora import install_fused_forward
from ftcli.methods.targets import ALL_LINEAR, check_patterns, find_unmatched
from ftcli.models.heads import get_new_modules

ADAPTER = "default"
#: Initialisations of LoRA after which the frozen base is no longer the pretrained one.
MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class Peft(Method):
    """An adapter given by a PEFT configuration class; further keys are that configuration's.

    Two defaults differ from PEFT's: `target_modules` is all linear layers of the blocks, and
    `task_type` is CAUSAL_LM. An explicit null gives PEFT's own choice for the model family.

    Args:
        config_class: a configuration class of PEFT, such as peft.LoraConfig.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: adapter weights in float32 also where the base has half precision.
    """

    formula = "LoRA: r * sum(in + out) over the targets"

    def __init__(
        self,
        config_class: ClassPath = "peft.LoraConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        self.config_class, self.targets_strict, self.options = config_class, targets_strict, options
        self.autocast_adapter_dtype = autocast_adapter_dtype
        self._adapter_config: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}

    @property
    def keeps_base(self) -> bool:
        """False where the initialisation changes the base's weights, or the base's biases are trained."""
        initialisation = str(self.options.get("init_lora_weights", True))
        return (
            not initialisation.startswith(MOVES_BASE) and self.options.get("bias", "none") == "none"
        )

    def prepare(self, model: Any) -> nn.Module:
        """Freeze the model and add the adapter.

        Raises:
            UserError: an option is wrong, a name matches no module (targets_strict), or the
                adapter does not work on quantised weights.
        """
        from peft import get_peft_model

        config = self._complete_config(self.config(), model)
        check_patterns(config)
        self._refuse_split_ties(config, model)
        self._restrict_all_linear(config, model)
        if self.targets_strict:
            Problems.raise_if_any(find_unmatched(config, model))
        quantised = quantised_weights(model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # transformers warns about PEFT's code
                wrapped = get_peft_model(
                    model,
                    config,
                    adapter_name=ADAPTER,
                    autocast_adapter_dtype=self.autocast_adapter_dtype,
                )
        except (ValueError, TypeError, NotImplementedError, ImportError) as error:
            raise self._make_option_error(error) from error
        except RuntimeError as error:  # shapes or dtypes of packed bytes
            if not quantised:
                raise
            raise self._make_quantised_error("it has no layer class for them") from error
        self._check_adapters_reload(wrapped)
        if quantised:
            self._refuse_changed(quantised, wrapped)
            self._refuse_unsupported_layers(wrapped)
        install_fused_forward(wrapped)
        self._adapter_config = to_plain_data(wrapped.peft_config[ADAPTER].to_dict())
        return wrapped

    def config(self) -> Any:
        """Return the PEFT configuration with the defaults of ftcli.

        Raises:
            UserError: there is no such class, or it refuses an option.
        """
        cls = self._class()
        options = {"task_type": "CAUSAL_LM", **self.options}
        if any(field.name == "target_modules" for field in fields(cls)):
            options.setdefault("target_modules", ALL_LINEAR)
        try:
            config = cls(**options)
        except (ValueError, TypeError) as error:
            raise self._make_option_error(error) from error
        return self._check_config(config)

    def merge(self, model: Any) -> nn.Module:
        """Return the base model with the adapter added to its weights.

        Raises:
            UserError: the base is quantised, the adapter is not a change of weights, or several adapted
                layers share one weight.
        """
        if quantisation_of(model) is not None:
            raise UserError(
                "merging into quantised weights would lose the adapter to rounding.",
                where="model.quantization",
                fix="ftcli merge RUN --to FOLDER dequantises the base first",
            )
        refuse_shared(model)
        try:
            return model.merge_and_unload(safe_merge=True)
        except (NotImplementedError, AttributeError, ValueError) as error:
            raise UserError(f"{self.config_class} cannot be merged. {error}", "method") from error

    def get_trained_tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the adapter's tensors under PEFT's names, modules_to_save included.

        Of tied layers each name gets a copy, since safetensors refuses shared memory.
        """
        from peft import get_peft_model_state_dict

        saved = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
        tensors: dict[str, Tensor] = {}
        pointers: set[int] = set()
        for name, tensor in saved.items():
            pointer = get_local_shard(tensor).data_ptr()
            shared = pointer in pointers
            pointers.add(pointer)
            tensors[name] = tensor.detach().clone() if shared else tensor.detach()
        return tensors

    def load_trained_tensors(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors into the adapter, in place.

        Raises:
            UserError: names differ from those of this adapter.
        """
        from peft import set_peft_model_state_dict

        current = self.get_trained_tensors(model)
        check_names(
            sorted(current.keys() - tensors.keys()), sorted(tensors.keys() - current.keys())
        )
        set_peft_model_state_dict(model, dict(tensors), adapter_name=ADAPTER)

    def describe(self) -> dict[str, Any]:
        """Return the content of PEFT's adapter_config.json."""
        return {**self._adapter_config, "inference_mode": True}

    def save(self, model: Any, folder: str | Path) -> None:
        """Write PEFT's layout, loadable by `peft.PeftModel.from_pretrained`."""
        model.save_pretrained(folder, save_embedding_layers=False)

    def _class(self) -> Any:
        from peft import PeftConfig

        path, where = self.config_class, "method.config_class"
        try:
            return fetch_subclass(path, PeftConfig, where, "configuration of PEFT")
        except ImportError as error:
            raise UserError(f"there is no {path}.", where, f"ftcli schema {where}") from error

    def _complete_config(self, config: Any, model: Any) -> Any:
        """Return the configuration with the model's task type, and its new head among `modules_to_save`.

        Raises:
            UserError: this adapter has no `modules_to_save` for a new head.
        """
        if "task_type" not in self.options and not hasattr(model, "prepare_inputs_for_generation"):
            config.task_type = None  # PEFT's task classes are for text models only
        new = get_new_modules(model)
        if not new:
            return config
        if not hasattr(config, "modules_to_save"):
            raise UserError(
                f"the head of {model_name(model)} is new, and {self.config_class} cannot train and save it: "
                "it has no modules_to_save.",
                where="method",
                fix="method=lora, or model.head=keep",
            )
        config.modules_to_save = sorted({*(config.modules_to_save or ()), *new})
        return config

    def _restrict_all_linear(self, config: Any, model: nn.Module) -> None:
        """Replace `all-linear` by the linear layers and experts that this adapter can train."""
        if getattr(config, "target_modules", None) != ALL_LINEAR:
            return
        with (
            torch.random.fork_rng()
        ):  # PEFT's trial layers draw random numbers; the adapter's must not change
            selection = select_targets(config, model)
        if self.options.get("target_parameters") is not None:
            selection = replace(selection, parameters=())
        if selection.parameters or selection.reasons:
            apply_selection(selection, config, model)
        self.left_out = selection.reasons

    def _check_config(self, config: Any) -> Any:
        if config.is_prompt_learning:
            raise UserError(
                f"{self.config_class} is a prompt-learning configuration; it adds soft prompts, not layers.",
                where="method.config_class",
                fix="method._target_=ftcli.methods.prompt.PromptLearning",
            )
        return config

    def _refuse_split_ties(self, config: Any, model: Any) -> None:
        """Refuse tied adapters in half precision: PEFT casts each to float32 and so separates them."""
        half = getattr(model, "dtype", None) in (torch.bfloat16, torch.float16)
        if getattr(config, "ensure_weight_tying", False) and half and self.autocast_adapter_dtype:
            raise UserError(
                "PEFT separates tied adapters (ensure_weight_tying) when it casts them to float32, and would "
                "then save only one of them.",
                where="method.autocast_adapter_dtype",
                fix="method.autocast_adapter_dtype=false, or model.dtype=float32",
            )

    def _make_option_error(self, error: Exception) -> UserError:
        return UserError(f"{self.config_class}: {str(error).strip()}", where="method")

    def _check_adapters_reload(self, wrapped: Any) -> None:
        """Refuse named layers whose adapter PEFT would not find in its own file."""
        base, config = wrapped.get_base_model(), wrapped.peft_config[ADAPTER]
        names = [name for name, m in base.named_modules() if hasattr(m, "lora_A")]
        lost = sorted(find_lost_on_loading(config, base, names))
        if lost:
            raise UserError(
                f"PEFT renames the adapter of {lost[0]} on loading, and then does not find it ({len(lost)} such "
                f"layers in {model_name(base)}).",
                where="method.target_modules",
                fix=f"method.target_modules={ALL_LINEAR} leaves them out",
            )

    def _refuse_changed(self, before: dict[str, nn.Parameter], model: nn.Module) -> None:
        """Refuse initialisations that replace quantised weights, since the remainder would be rounded."""
        kept = {id(parameter) for parameter in quantised_weights(model).values()}
        if any(id(parameter) not in kept for parameter in before.values()):
            raise self._make_quantised_error("its initialisation changes the base's weights")

    def _refuse_unsupported_layers(self, model: Any) -> None:
        """Run one adapted layer of each class; those without support for quantised weights fail."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
        kinds: dict[type, Any] = {type(layer): layer for layer in layers}
        dtype = model.get_input_embeddings().weight.dtype
        for layer in kinds.values():
            base: Any = layer.get_base_layer()
            weight = getattr(base, "weight", None)
            if weight is None or weight.dtype.is_floating_point or weight.device.type == "meta":
                continue
            try:
                with torch.no_grad():
                    layer(torch.zeros(1, 1, base.in_features, dtype=dtype, device=weight.device))
            except RuntimeError as error:
                raise self._make_quantised_error("it has no layer class for them") from error

    def _make_quantised_error(self, why: str) -> UserError:
        return UserError(
            f"{self.config_class} does not work on quantised weights: {why}.",
            where="model.quantization",
            fix="model.quantization=none, or method=lora; or the checkpoint before it was quantised",
        )


def quantised_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return name -> packed weight of a quantised model; empty where it is not quantised."""
    if quantisation_of(model) is None:
        return {}
    named = model.named_parameters()
    return {name: p for name, p in named if not p.dtype.is_floating_point}


def refuse_shared(model: nn.Module) -> None:
    """Raise where merging would add the adapters of several layers to one weight (shared blocks of Zamba).

    Raises:
        UserError: names one of the layers.
    """
    owners: dict[int, list[str]] = {}
    for name, layer in model.named_modules():
        weight = getattr(getattr(layer, "base_layer", None), "weight", None)
        tied = getattr(layer, "tied_adapter", None)  # trained as one by PEFT
        if isinstance(weight, nn.Parameter) and hasattr(layer, "adapter_layer_names") and not tied:
            owners.setdefault(id(weight), []).append(name)
    shared = next((names for names in owners.values() if len(names) > 1), None)
    if shared is not None:
        raise UserError(
            f"{len(shared)} layers share the weight of {shared[0]} and have one adapter each; merging would "
            "add all of them to it.",
            where="method",
            fix="keep the adapter separate: ftcli chat RUN, or load it with PEFT",
        )


def to_plain_data(value: Any) -> Any:
    """Return a value as JSON can store it: enumerations as their values, sets as sorted lists."""
    if isinstance(value, dict):
        return {str(key): to_plain_data(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(to_plain_data(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [to_plain_data(item) for item in value]
    return getattr(value, "value", value)
