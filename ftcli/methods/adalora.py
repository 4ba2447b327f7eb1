"""AdaLoRA (arXiv 2303.10512): singular triplets are pruned by importance while training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftcli.config.classpath import ClassPath
from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.methods.peft import ADAPTER, Peft
from ftcli.trainable.base import Trainable

if TYPE_CHECKING:
    from ftcli.core.run import Run

SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class AdaLora(Peft):
    """PEFT's AdaLoRA with the schedule fed by the loop; further keys are peft.AdaLoraConfig's.

    As in Algorithm 1 of the paper, importance is taken from weights and gradients before the step,
    and triplets are masked after it. `total_step` is the run's unless given. The orthogonality
    term (equation 4) joins the gradients; it is no part of the loss that is logged.

    Args:
        config_class: peft.AdaLoraConfig or a subclass of it.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: adapter weights in float32 also where the base has half precision.
    """

    formula = "init_r * sum(in + out + 1) over the targets"

    def __init__(
        self,
        config_class: ClassPath = "peft.AdaLoraConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        self._given = options.get("total_step") is not None
        options.setdefault("total_step", 10**9)  # until the run's is known
        super().__init__(config_class, targets_strict, autocast_adapter_dtype, **options)
        self._restored: dict[str, Any] = {}
        self._model: Any = None

    def prepare(self, model: Any) -> nn.Module:
        """Add the triplets; the divisor `ranknum` stays a constant.

        PEFT 0.21 makes it trainable where it casts adapters to float32, and then does not save it.
        """
        wrapped = super().prepare(model)
        for name, parameter in wrapped.named_parameters():
            if "ranknum" in name:
                parameter.requires_grad_(False)
        return wrapped

    def setup(self, run: Run) -> None:
        """Refuse what leaves triplets without a gradient: the budget goes round all at every step.

        Raises:
            UserError: not all of the adapter moves, or the optimizer takes no gradients.
        """
        if not getattr(run.optimizer.optimizer, "uses_backward", True):
            raise UserError(
                "AdaLoRA scores triplets by their gradients, and this optimizer takes none.",
                where="optimizer",
                fix="optimizer=adamw, or method=lora",
            )
        if run.trainable is not None and type(run.trainable) is not Trainable:
            raise UserError(
                "AdaLoRA scores every triplet at every step, so that none can be frozen for a while.",
                where="trainable",
                fix="trainable=all, or method=lora",
            )

    def before_step(self, state: State) -> None:
        """Learn the run's length; after a resume, take back the scores."""
        model: Any = state.model
        config = model.peft_config[ADAPTER]
        if not self._given:
            config.total_step = state.max_steps
        if config.tinit + config.tfinal >= config.total_step:
            raise UserError(
                f"tinit + tfinal = {config.tinit + config.tfinal} leaves no step to prune in "
                f"{config.total_step} steps.",
                where="method.tinit",
                fix="method.tinit=0 method.tfinal=0",
            )
        self._model = model
        if self._restored:
            self._take_back(model)

    def after_backward(self, state: State) -> None:
        """Add the gradient of the orthogonality term, then update the importance of each weight."""
        model: Any = state.model
        config, allocator = model.peft_config[ADAPTER], model.base_model.rankallocator
        (config.orth_reg_weight * orthogonality(model.base_model.model)).backward()
        if state.step + 1 < config.total_step - config.tfinal:
            allocator.update_ipt(model.base_model.model)

    def after_step(self, state: State) -> None:
        """Mask the triplets beyond the budget of this step."""
        model: Any = state.model
        config, allocator = model.peft_config[ADAPTER], model.base_model.rankallocator
        layers, last = model.base_model.model, config.total_step - config.tfinal
        if state.step > last:
            allocator.mask_using_rank_pattern(layers, config.rank_pattern)
            return
        budget, due = allocator.budget_schedule(state.step)
        if (due or state.step == last) and budget < allocator.init_bgt:
            config.rank_pattern = allocator.mask_to_budget(layers, budget)

    def state(self, model: Any) -> dict[str, Tensor]:
        """All triplets, masked ones too: their moments go on after a resume."""
        with _unpruned(model):
            return super().state(model)

    def load_state(self, model: Any, tensors: dict[str, Tensor]) -> None:
        """Put the tensors into the adapter, in place."""
        with _unpruned(model):
            super().load_state(model, tensors)

    def state_dict(self) -> dict[str, Any]:
        """Importance scores and the present rank pattern."""
        if self._model is None:
            return {}
        model, allocator = self._model, self._model.base_model.rankallocator
        scores = {name: dict(getattr(allocator, name)) for name in SCORES}
        return scores | {"rank_pattern": model.peft_config[ADAPTER].rank_pattern}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Keep them for the first step, when the model is there."""
        self._restored = saved

    def _take_back(self, model: Any) -> None:
        device = next(model.parameters()).device
        for name in SCORES:
            scores = {key: tensor.to(device) for key, tensor in self._restored[name].items()}
            setattr(model.base_model.rankallocator, name, scores)
        model.peft_config[ADAPTER].rank_pattern = self._restored["rank_pattern"]
        self._restored = {}


def orthogonality(model: nn.Module) -> Tensor:
    """Mean over the factors P and Q of ||P P^T - I||_F and ||Q^T Q - I||_F (equation 4)."""
    terms = []
    for name, factor in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            product = factor @ factor.T if "lora_A" in name else factor.T @ factor
            terms.append(torch.linalg.matrix_norm(product - torch.eye(len(product)).to(product)))
    return torch.stack(terms).mean()


@contextmanager
def _unpruned(model: Any) -> Iterator[None]:
    """PEFT cuts tensors to the rank pattern wherever the configuration has one."""
    config = model.peft_config[ADAPTER]
    pattern, config.rank_pattern = config.rank_pattern, None
    try:
        yield
    finally:
        config.rank_pattern = pattern
