"""Soft prompts of the PEFT library: trained vectors before the input, with a frozen model."""

from __future__ import annotations

import re
import warnings
from typing import Any, ClassVar

from torch import Tensor, nn

from ftcli.config.classpath import ClassPath
from ftcli.core.errors import UserError
from ftcli.methods.base import check_names
from ftcli.methods.peft import ADAPTER, Peft


class PromptLearning(Peft):
    """Prompt tuning, prefix tuning, P-tuning; further keys are those of the configuration class.

    The prompt stands once before a row, so rows that hold several documents are refused.

    Args:
        config_class: a prompt learning configuration, such as peft.PromptTuningConfig.
        autocast_adapter_dtype: prompts in float32 also where the base has half precision.
    """

    mergeable: ClassVar[bool] = False
    packable: ClassVar[bool] = False
    formula: ClassVar[str] = "num_virtual_tokens * hidden; prefix: * 2 * layers * kv heads * head"

    def __init__(
        self,
        config_class: ClassPath = "peft.PromptTuningConfig",
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(config_class, True, autocast_adapter_dtype, **options)

    def prepare(self, model: Any) -> nn.Module:
        """Freeze the model and add the prompt.

        Raises:
            UserError: an option is wrong.
        """
        # PEFT counts positions itself, and transformers warns about a name in PEFT; users can do nothing
        for warning in ("Position ids are not supported", "`past_key_values` is deprecated"):
            warnings.filterwarnings("ignore", message=re.escape(warning))
        return super().prepare(model)

    def merge(self, model: Any) -> nn.Module:
        """Raise, because a prompt is not a change of weights.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.config_class} cannot be merged into the weights.", where="method")

    def get_trained_tensors(self, model: Any) -> dict[str, Tensor]:
        """Return the prompt and the encoder that computes it; PEFT does not save the encoder."""
        encoder = model.prompt_encoder[ADAPTER].state_dict()
        return {f"prompt_encoder.{name}": tensor.detach() for name, tensor in encoder.items()}

    def load_trained_tensors(self, model: Any, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors into the prompt encoder, in place.

        Raises:
            UserError: names differ from those of this prompt.
        """
        current = self.get_trained_tensors(model)
        check_names(
            sorted(current.keys() - tensors.keys()), sorted(tensors.keys() - current.keys())
        )
        named = {name.removeprefix("prompt_encoder."): t for name, t in tensors.items()}
        model.prompt_encoder[ADAPTER].load_state_dict(named)

    def _check_config(self, config: Any) -> Any:
        if not config.is_prompt_learning:
            raise UserError(
                f"{self.config_class} is not a prompt-learning configuration.",
                where="method.config_class",
                fix="method._target_=ftcli.methods.peft.Peft",
            )
        return config
