"""Every adapter of the PEFT library, by YAML alone."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ftcli.config.classpath import ClassPath
from ftcli.errors import Problems, UserError
from ftcli.methods.base import Method, quantisation_of, refuse_names
from ftcli.methods.targets import ALL_LINEAR, unmatched

ADAPTER = "default"


class Peft(Method):
    """One PEFT configuration; further keys are that configuration's own.

    Two defaults differ from PEFT's: `target_modules` is all linear layers of the blocks, and
    `task_type` is CAUSAL_LM. An explicit null gives PEFT's choice for the model family.

    Args:
        config_class: a configuration class of PEFT, such as peft.LoraConfig.
        targets_strict: refuse names of modules that match nothing in the model.
    """

    formula = "LoRA: r * sum(in + out) over the targets"

    def __init__(
        self,
        config_class: ClassPath = "peft.LoraConfig",
        targets_strict: bool = True,
        **options: Any,
    ) -> None:
        self.config_class, self.targets_strict, self.options = config_class, targets_strict, options
        self._applied: dict[str, Any] = {}

    def prepare(self, model: Any) -> nn.Module:
        """Freeze the model and add the adapter, with fp32 weights whatever the base has.

        Raises:
            UserError: an option is wrong, or (targets_strict) a name matches no module.
        """
        from peft import get_peft_model

        config = self.config()
        if self.targets_strict:
            Problems.raise_if_any(unmatched(config, model))
        self._refuse_quantised(config, model)
        try:
            wrapped = get_peft_model(model, config, adapter_name=ADAPTER)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise self._refused(error) from error
        self._applied = plain(wrapped.peft_config[ADAPTER].to_dict())
        return wrapped

    def config(self) -> Any:
        """The PEFT configuration with our defaults."""
        cls = self._class()
        known = {field.name for field in fields(cls)}
        options = {"task_type": "CAUSAL_LM", **self.options}
        if "target_modules" in known:
            options.setdefault("target_modules", ALL_LINEAR)
        try:
            return cls(**options)
        except (ValueError, TypeError) as error:
            raise self._refused(error) from error

    def merge(self, model: Any) -> nn.Module:
        """The base model with the adapter added to its weights.

        Raises:
            UserError: this adapter is no change of weights.
        """
        unload = getattr(model, "merge_and_unload", None)
        if unload is None or model.peft_config[ADAPTER].is_prompt_learning:
            raise UserError(f"{self.config_class} cannot be merged into the weights.", "method")
        try:
            return unload(safe_merge=True)
        except (NotImplementedError, AttributeError) as error:
            raise UserError(f"{self.config_class} cannot be merged: {error}", "method") from error

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The adapter's tensors under PEFT's names, modules_to_save included."""
        from peft import get_peft_model_state_dict

        found = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
        return {name: tensor.detach() for name, tensor in found.items()}

    def load_state(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Put the tensors into the adapter.

        Raises:
            UserError: names differ from those of this adapter.
        """
        from peft import set_peft_model_state_dict

        own = self.state(model)
        refuse_names(sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys()))
        set_peft_model_state_dict(model, dict(tensors), adapter_name=ADAPTER)

    def describe(self) -> dict[str, Any]:
        """PEFT's adapter_config.json."""
        return {**self._applied, "inference_mode": True}

    def save(self, model: Any, folder: str | Path) -> None:
        """Write PEFT's layout, loadable by `peft.PeftModel.from_pretrained`."""
        model.save_pretrained(folder, save_embedding_layers=False)

    def _class(self) -> Any:
        module, _, name = self.config_class.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"there is no {self.config_class}.", where="method.config_class"
            ) from error

    def _refuse_quantised(self, config: Any, model: nn.Module) -> None:
        if quantisation_of(model) is None or self.quantisable:
            return
        raise UserError("the base is quantised.", where="model.quantization")

    def _refused(self, error: Exception) -> UserError:
        return UserError(f"{self.config_class}: {error}", where="method")


def plain(value: Any) -> Any:
    """The same as JSON can hold it: enumerations as their values, sets as sorted lists."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return getattr(value, "value", value)
