"""GRPO: answers sampled from the model are reinforced by their rewards relative to the same prompt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.objectives.advantages import Aggregation, Scale
from ftcli.objectives.base import Losses, Reduction
from ftcli.objectives.causal_lm import NextTokenPrediction, compute_hidden_and_head
from ftcli.objectives.policy_loss import PolicyLoss, Tokens
from ftcli.objectives.reference import Mode
from ftcli.objectives.rewarding import RolloutBuilder
from ftcli.objectives.rollouts import Batch

if TYPE_CHECKING:
    from ftcli.core.run import Run

log = logging.getLogger("ftcli.objectives")
Head = Callable[[Tensor], Tensor]
#: Loss type -> what its values are a mean over.
REDUCTIONS: dict[str, Reduction] = {
    "grpo": "sequence", "sapo": "sequence", "luspo": "target", "dr_grpo": "constant",
    "bnpo": "token", "dapo": "token", "cispo": "token", "vespo": "token",
}  # fmt: skip


@dataclass
class GRPO(PolicyLoss, NextTokenPrediction):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300) and its relatives.

    Before a step each prompt of its micro-batches is answered `num_generations` times by the model
    as it is; an answer's advantage is its reward against the others of the group. The mean is

        grpo, sapo           over answers, of the mean over an answer's tokens
        luspo                over answers, of the sum over an answer's tokens
        dapo, cispo, vespo   over the tokens of the whole step, on all ranks
        bnpo                 over the micro-batches, of the mean over a micro-batch's tokens
        dr_grpo              the sum over tokens, by answers times `max_new_tokens`

    A batch without answers (an evaluator's) gets the cross-entropy of its labels.
    """

    reduction: Reduction = field(init=False, default="token")
    constant: float = field(init=False, default=1.0)
    label_smoothing: float = field(init=False, default=0.0)
    rewards: dict[str, Any] = field(
        default_factory=dict
    )  # name -> weight, or {weight: and options}
    num_generations: int = 8  # answers a prompt
    max_new_tokens: int = 256  # an answer that is longer is cut here
    temperature: float = 1.0  # of sampling, and of the probabilities that are compared
    top_p: float = 1.0  # answers are drawn from the likeliest tokens of this mass
    top_k: int = 0  # and from so many of them; 0: all
    generation_batch_size: int = 64  # answers that are written at the same time
    num_iterations: int = 1  # steps on the same answers; prompts of the other steps are skipped
    scale_rewards: Scale = "group"  # whose standard deviation rewards are divided by
    multi_objective_aggregation: Aggregation = "sum_then_normalize"  # or normalize_then_sum: GDPO
    mask_truncated: bool = False  # answers that were cut are not trained on
    entropy_coef: float = 0.0  # weight of the mean entropy, which is maximised
    share_prompts: bool = True  # packed rows: a prompt is computed once for all its answers
    reference: Mode = "auto"  # what beta compares with: adapter_off, separate

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reduction = REDUCTIONS[self.loss_type]
        for key, least in (("num_generations", 2), ("max_new_tokens", 1), ("num_iterations", 1)):
            if getattr(self, key) < least:
                raise UserError(
                    f"{key}={getattr(self, key)} is below {least}.",
                    where=f"objective.{key}",
                    fix=f"objective.{key}={least} or more",
                )
        self.rollout_builder = RolloutBuilder(self)
        self._buffer: list[Batch] = []
        self._used = 0

    def setup(self, run: Run) -> None:
        """Set dropout to 0, since it would make old and new probabilities differ; set up rewards."""
        _disable_dropout(run.model)
        self.rollout_builder.setup(run)

    def rollout(self, state: State, batches: list[Batch]) -> list[Batch]:
        """Return answers to the prompts of the micro-batches, or again those of the step before."""
        fresh = self._used >= self.num_iterations or len(batches) != len(self._buffer)
        if fresh:
            self._buffer, self._used = self.rollout_builder.build(state, batches), 0
        self._used += 1
        return self._buffer

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Return losses [n], one a token of an answer; metrics: rewards, entropy, divergence, clipped."""
        if "advantages" not in batch:
            return super().__call__(model, batch)
        log_probs, entropy = self.token_log_probs(model, batch)
        device = log_probs.device
        owner = batch["owner"].to(device)
        optional = {k: batch[k].to(device) if k in batch else None for k in ("old", "reference")}
        tokens = Tokens(log_probs, optional["old"], optional["reference"], entropy,
                        batch["advantages"].to(device), owner)  # fmt: skip
        values, figures = self.losses(tokens)
        if self.entropy_coef:
            values = values - self.entropy_coef * self._bonus(tokens, batch)
        figures["entropy"] = entropy.detach().sum() / max(1, len(entropy))
        figures |= {k: torch.tensor(v, device=device) for k, v in batch["figures"].items()}
        return Losses(values, owner, figures)

    def token_log_probs(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return log-probabilities [n] of the answers' tokens, and entropies [n], at `temperature`."""
        device = next(model.parameters()).device
        hidden, head = compute_hidden_and_head(model, batch, device)
        hidden = hidden.flatten(0, 1)[batch["where"].to(device)]
        return self._chunked_log_probs(hidden, batch["targets"].to(device), head)

    def sizes(self, batch: Batch) -> tuple[int, int]:
        """Return the number of tokens and answers; for a batch without answers of labels and documents."""
        if "advantages" not in batch:
            return super().sizes(batch)
        return len(batch["targets"]), batch["answers"]

    def denominator(self, batches: Sequence[Batch]) -> float:
        """Return what one rank's micro-batches add; above 0 also where no token is trained on."""
        if self.loss_type == "bnpo":
            return len(batches)
        sizes = [self.sizes(batch) for batch in batches]
        if self.reduction == "token":
            return max(1e-9, sum(tokens for tokens, _ in sizes))
        answers = sum(answers for _, answers in sizes)
        return float(answers * (self.max_new_tokens if self.loss_type == "dr_grpo" else 1))

    def numerator(self, losses: Losses) -> Tensor:
        """Return the scalar that one micro-batch adds to the numerator."""
        return (losses.values * self._factors(losses.sequence_index)).sum()

    def state_dict(self) -> dict[str, Any]:
        """Return the answers that later steps will train on again."""
        return {"buffer": self._buffer, "used": self._used} if self._has_buffered_answers else {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._buffer, self._used = saved["buffer"], saved["used"]

    @property
    def _has_buffered_answers(self) -> bool:
        return 0 < self._used < self.num_iterations

    def _factors(self, owner: Tensor) -> Tensor:
        """Return the factor of each value in the numerator, [n]."""
        if self.loss_type == "bnpo":
            return torch.ones(len(owner), device=owner.device) / max(1, len(owner))
        if self.reduction != "sequence" or not len(owner):
            return torch.ones(len(owner), device=owner.device)
        return 1 / torch.bincount(owner)[owner]

    def _bonus(self, tokens: Tokens, batch: Batch) -> Tensor:
        """Return entropies [n], weighted so that the step's loss contains their mean for any loss type.

        The mean is over the selected tokens of a micro-batch, then over micro-batches.
        """
        selected = self.select_tokens(tokens.entropy)
        share = batch["share"] / selected.sum().clamp(min=1)
        return tokens.entropy * selected * share / self._factors(tokens.owner)

    def _chunked_log_probs(
        self, hidden: Tensor, targets: Tensor, head: Head
    ) -> tuple[Tensor, Tensor]:
        """Compute in chunks as `NextTokenPrediction.token_losses` does: at most `chunk_size` logits at a time."""

        def chunk_log_probs(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logs = (head(h).float() / self.temperature).log_softmax(-1)
            with torch.set_grad_enabled(bool(self.entropy_coef) and torch.is_grad_enabled()):
                entropy = -(logs.exp() * logs).sum(-1)
            return logs.gather(-1, y[:, None]).squeeze(-1), entropy

        pieces = list(
            zip(hidden.split(self.chunk_size), targets.split(self.chunk_size), strict=True)
        )
        if len(pieces) < 2 or not torch.is_grad_enabled():
            chunks = [chunk_log_probs(h, y) for h, y in pieces]
        else:
            chunks = [checkpoint(chunk_log_probs, h, y, use_reentrant=False) for h, y in pieces]
        return torch.cat([logs for logs, _ in chunks]), torch.cat([e for _, e in chunks])


def _disable_dropout(model: nn.Module) -> None:
    """Set dropout of the model and of the method to 0, with a warning where there was any."""
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    for module in dropouts:
        module.p = 0.0
    for attention in model.modules():
        if getattr(attention, "attention_dropout", 0.0):
            setattr(attention, "attention_dropout", 0.0)  # noqa: B010 - any module may have it
    if dropouts:
        log.warning(
            "dropout is off, because it would change the ratio of new to old probabilities at random"
        )
