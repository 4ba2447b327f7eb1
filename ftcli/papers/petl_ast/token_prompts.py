"""Learned tokens beside those of an encoder that sees images or sounds (VPT, arXiv 2203.12119; PETL-AST, 2312.03694).

PEFT's prompts are inserted before embedded text. These are appended to the sequence before the first block
and removed after the last one, so that neither the head nor a mean over tokens includes them. With `deep`
each block has its own prompts, appended before it and removed after it. Their place in the sequence has no
effect, because position embeddings were added before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft import PeftConfig
from peft.utils import PeftType
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.models.anatomy import Anatomy


@dataclass
class TokenPromptsConfig(PeftConfig):
    """Number of tokens, and the blocks they are added to."""

    num_prompts: int = 25  # learned tokens of a sequence
    deep: bool = False  # each block has its own, in place of those of the block before
    patch_values: int = 768  # values of a patch: begins uniform within sqrt(6 / (these + width))
    target_modules: list[str] | str | None = field(default=None)  # found by structure: the blocks
    modules_to_save: list[str] | None = field(default=None)  # layers that are trained themselves

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: num_prompts is below 1.
        """
        super().__post_init__()
        self.peft_type = PeftType("TOKEN_PROMPTS")
        if self.num_prompts < 1:
            raise ValueError(f"num_prompts={self.num_prompts} is below 1")


class PromptedBlock(TunerLayer):
    """A block that appends prompts before it, removes them after it, or both."""

    adapter_layer_names = ("token_prompts_values",)
    token_prompts_values: nn.ParameterDict

    def __init__(self, base_layer: nn.Module, width: int, first: bool, last: bool) -> None:
        """Wrap a block of hidden size `width`; `first`: appends prompts; `last`: removes them."""
        super().__init__(base_layer)
        self.width, self.first, self.last = width, first, last
        self.counts: dict[str, int] = {}

    def add(self, adapter: str, config: TokenPromptsConfig) -> None:
        """Create prompts [num_prompts, width], where the block appends any."""
        self.counts[adapter] = config.num_prompts
        if self.first:
            bound = math.sqrt(6 / (config.patch_values + self.width))
            values = torch.empty(config.num_prompts, self.width).uniform_(-bound, bound)
            place = next(self.get_base_layer().parameters()).device
            self.token_prompts_values[adapter] = nn.Parameter(values.to(place))

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the block on hidden states [B, T, width] with prompts at their end.

        Raises:
            UserError: the model passes an attention mask.
        """
        masks = [a for a in (*args[:1], kwargs.get("attention_mask")) if isinstance(a, Tensor)]
        if masks:
            raise UserError(
                "this model has an attention mask; prompts among the tokens need attention to all tokens.",
                where="method",
                fix="method=prompt_tuning",
            )
        names = self.adapters_in_effect()
        for name in names if self.first else ():
            prompts = self.token_prompts_values[name].to(hidden.dtype)
            hidden = torch.cat([hidden, prompts.expand(len(hidden), -1, -1)], dim=1)
        out = self.base_layer(hidden, *args, **kwargs)
        added = sum(self.counts[name] for name in names)
        if not (self.last and added):
            return out
        return (out[0][:, :-added], *out[1:]) if isinstance(out, tuple) else out[:, :-added]

    def _adapter_values(self) -> dict[str, int]:
        return self.counts


class TokenPromptsModel(Tuner):
    """Wraps the first and the last block, or all of them."""

    prefix = "token_prompts_"
    tuner_layer_cls = PromptedBlock

    def layer_class(self, target: nn.Module) -> Any:
        """Return the tuner layer class, with `first` and `last` set for this block.

        Raises:
            ValueError: the target is not a block.
        """
        config: Any = self.peft_config[self._adapter]
        blocks = [module for _, module in Anatomy(self.model).blocks]
        place = next((i for i, block in enumerate(blocks) if block is target), None)
        if place is None:
            raise ValueError(
                "target_modules must name blocks of the model, or be null for all of them"
            )
        first, last = config.deep or place == 0, config.deep or place == len(blocks) - 1
        width = Anatomy(target).linears[-1].out_features
        return partial(PromptedBlock, width=width, first=first, last=last)

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Inject as PEFT does, and store the adapter's name for `layer_class`."""
        self._adapter = adapter_name
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # no list by model family: `_prepare_model` sees the model itself

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        anatomy = Anatomy(model)
        if any(stack.role == "decoder" for stack in anatomy.stacks):
            raise UserError(
                "prompts among the tokens are for encoders of images and sounds.",
                where="method",
                fix="method=prompt_tuning",
            )
        names = [name for name, _ in anatomy.blocks]
        if peft_config.target_modules is None:
            peft_config.target_modules = set(names if peft_config.deep else (names[0], names[-1]))


register("token_prompts", TokenPromptsConfig, TokenPromptsModel)
