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
    """PEFT's AdaLoRA with its schedule driven by the training loop; further keys are peft.AdaLoraConfig's.

    As in Algorithm 1 of the paper, importance is taken from weights and gradients before the step,
    and triplets are masked after it. `total_step` is that of the run unless it is set. The
    gradient of the orthogonality term (equation 4) is added; the logged loss does not contain the term.

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
        self._fixed_total = options.get("total_step") is not None
        options.setdefault("total_step", 10**9)  # until the run's is known
        super().__init__(config_class, targets_strict, autocast_adapter_dtype, **options)
        self._restored: dict[str, Any] = {}
        self._model: Any = None

    def prepare(self, model: Any) -> nn.Module:
        """Add the triplets, and keep the divisor `ranknum` constant.

        PEFT 0.21 makes `ranknum` trainable where it casts adapters to float32, and then does not save it.
        """
        wrapped = super().prepare(model)
        for name, parameter in wrapped.named_parameters():
            if "ranknum" in name:
                parameter.requires_grad_(False)
        return wrapped

    def setup(self, run: Run) -> None:
        """Refuse options that leave triplets without a gradient, since all of them are scored at every step.

        Raises:
            UserError: a trainable policy freezes triplets, or the optimizer computes no gradients.
        """
        if not getattr(run.optimizer_builder.optimizer, "uses_backward", True):
            raise UserError(
                "AdaLoRA scores triplets by their gradients, and this optimizer computes none.",
                where="optimizer",
                fix="optimizer=adamw, or method=lora",
            )
        if run.trainable is not None and type(run.trainable) is not Trainable:
            raise UserError(
                "AdaLoRA scores every triplet at every step, so trainable=all is needed: no policy may freeze some.",
                where="trainable",
                fix="trainable=all, or method=lora",
            )

    def before_step(self, state: State) -> None:
        """Set `total_step` from the run's length; after a resume, restore the scores.

        Raises:
            UserError: the run is too short for tinit and tfinal.
        """
        model: Any = state.model
        config = model.peft_config[ADAPTER]
        if not self._fixed_total:
            config.total_step = state.max_steps
        if config.tinit + config.tfinal >= config.total_step:
            raise UserError(
                f"tinit + tfinal = {config.tinit + config.tfinal} leaves no step for pruning in a run of "
                f"{config.total_step} steps.",
                where="method.tinit",
                fix="method.tinit=0 method.tfinal=0",
            )
        self._model = model
        if self._restored:
            self._restore_scores(model)

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

    def get_trained_tensors(self, model: Any) -> dict[str, Tensor]:
        """Return all triplets, also masked ones, whose optimizer moments are used after a resume."""
        with _without_rank_pattern(model):
            return super().get_trained_tensors(model)

    def load_trained_tensors(self, model: Any, tensors: dict[str, Tensor]) -> None:
        """Put the tensors into the adapter, in place."""
        with _without_rank_pattern(model):
            super().load_trained_tensors(model, tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return importance scores and the current rank pattern."""
        if self._model is None:
            return {}
        model, allocator = self._model, self._model.base_model.rankallocator
        scores = {name: dict(getattr(allocator, name)) for name in SCORES}
        return scores | {"rank_pattern": model.peft_config[ADAPTER].rank_pattern}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Keep the scores until the first step, where the model exists."""
        self._restored = saved

    def _restore_scores(self, model: Any) -> None:
        device = next(model.parameters()).device
        for name in SCORES:
            scores = {key: tensor.to(device) for key, tensor in self._restored[name].items()}
            setattr(model.base_model.rankallocator, name, scores)
        model.peft_config[ADAPTER].rank_pattern = self._restored["rank_pattern"]
        self._restored = {}


def orthogonality(model: nn.Module) -> Tensor:
    """Return the mean over all factors of ||P P^T - I||_F and ||Q^T Q - I||_F (equation 4)."""
    terms = []
    for name, factor in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            product = factor @ factor.T if "lora_A" in name else factor.T @ factor
            terms.append(torch.linalg.matrix_norm(product - torch.eye(len(product)).to(product)))
    return torch.stack(terms).mean()


@contextmanager
def _without_rank_pattern(model: Any) -> Iterator[None]:
    """Clear the rank pattern, because PEFT truncates saved and loaded tensors to it."""
    config = model.peft_config[ADAPTER]
    pattern, config.rank_pattern = config.rank_pattern, None
    try:
        yield
    finally:
        config.rank_pattern = pattern
