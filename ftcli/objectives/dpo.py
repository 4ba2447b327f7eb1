"""Direct preference optimisation and its relatives (Rafailov et al. 2023, arXiv 2305.18290)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.objectives.base import Losses
from ftcli.objectives.causal_lm import NextTokenPrediction, compute_hidden_and_head, find_supervised
from ftcli.objectives.preference import Answers, PairComparison, count_pairs, reward_metrics
from ftcli.objectives.preference_losses import (
    BATCH_LOSSES,
    LOSSES,
    SCORE_LOSSES,
    Divergence,
    Settings,
    divergence,
)
from ftcli.objectives.preference_reference import ReferenceScores
from ftcli.objectives.reference import Mode, Reference

if TYPE_CHECKING:
    from ftcli.core.run import Run

Head = Callable[[Tensor], Tensor]


@dataclass
class DPO(NextTokenPrediction):
    """Prefer chosen to rejected answers, relative to a reference model; one value a pair.

    log pi(y|x) is the sum over the answer's tokens, in float32. The reference is the model before
    this run. `ftcli.objectives.preference_losses` has the formula of each `loss_type`; `aot` and
    `aot_unpaired` sort within a micro-batch; all others are a mean over the pairs of a step.
    """

    beta: float = 0.1  # how strongly the policy is held to the reference
    loss_type: str | list[str] = "sigmoid"  # one of `preference_losses`, or several that are added
    loss_weights: list[float] | None = None  # of several losses; null: 1 each
    label_smoothing: float = 0.0  # share of pairs thought to be wrong: robust, exo_pair, aot
    f_divergence: Divergence = "reverse_kl"  # what holds the policy to the reference
    f_alpha: float = 0.5  # alpha of f_divergence=alpha_divergence
    discopop_tau: float = 0.05  # temperature of loss_type=discopop
    ld_alpha: float | None = None  # weight of tokens beyond the shorter answer (LD-DPO); null: 1
    weighting: bool = False  # pairs weigh by how likely the policy writes them (WPO)
    reference: Mode = "auto"  # adapter_off, separate (a second copy), or whichever is right
    precompute: bool = False  # the reference's log-probabilities once, before the first step
    dropout: bool = False  # whether the model's dropout stays on in training
    scores: ReferenceScores | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        names = [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type
        weights = [1.0] * len(names) if self.loss_weights is None else self.loss_weights
        _refuse(names, weights, self)
        self._losses = list(zip(names, weights, strict=True))
        self._settings = Settings(self.beta, self.label_smoothing, self.discopop_tau)

    def setup(self, run: Run) -> None:
        """Create the reference, and set dropout to 0 unless `dropout` is true.

        Raises:
            UserError: `reference: adapter_off` with a method that changes the base.
        """
        self.scores = ReferenceScores(run, Reference(run, self.reference), self.log_probabilities)
        if not self.dropout:
            for module in run.model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0

    def rollout(self, state: State, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the micro-batches with the step's mean of chosen tokens, and precomputed reference scores."""
        tokens = sum(_chosen_tokens(batch) for batch in batches)
        share = {"chosen_tokens": tokens / sum(map(count_pairs, batches))}
        if not self.precompute:
            return [batch | share for batch in batches]
        return [self.with_reference(batch, "train") | share for batch in batches]

    def with_reference(self, batch: dict[str, Any], split: str) -> dict[str, Any]:
        """Return the batch of a split with the precomputed log-probabilities of the reference."""
        return batch | {
            "reference": self._require_scores().for_split(split)[batch["indices"]].view(-1, 2)
        }

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return losses [P], one a pair; metrics: rewards of chosen and rejected, margin, accuracy."""
        compared, weights = self.compare(model, batch)
        values = self.values(compared, weights)
        sequence = torch.arange(len(values), device=values.device)
        return Losses(values, sequence, reward_metrics(compared, self.beta))

    def held_out_losses(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return the losses of held-out pairs, which are those of training."""
        return self(model, batch)

    def values(self, compared: PairComparison, weights: Tensor | None = None) -> Tensor:
        """Return the losses [P] of pairs, with the weights that `compare` gave."""
        values = torch.zeros_like(compared.nll)
        for name, weight in self._losses:
            values = values + weight * LOSSES[name](compared, self._settings)
        return values if weights is None else values * weights

    def compare(
        self, model: nn.Module, batch: dict[str, Any]
    ) -> tuple[PairComparison, Tensor | None]:
        """Return both answers of each pair under policy and reference, and the pairs' weights [P].

        The reference is computed first: with gradient checkpointing the adapter must not be switched
        between the policy's forward pass and backward.
        """
        reference = batch.get("reference")
        if reference is None:
            with self._require_scores().reference.model() as other:
                reference = self.log_probabilities(other, batch)
        answers, hidden, head = self._answers(model, batch)
        policy = answers.sums(self.ld_alpha)
        reference = reference.to(policy.device, non_blocking=True)
        mean = batch.get("chosen_tokens") or _chosen_tokens(batch) / count_pairs(batch)
        compared = PairComparison(
            policy,
            reference,
            answers.lengths.view(-1, 2),
            divergence(policy - reference, self.f_divergence, self.f_alpha),
            -answers.sums()[:, 0] / mean,
        )
        return compared, self._weights(answers, hidden, head) if self.weighting else None

    def log_probabilities(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return log pi(y|x) of chosen and rejected answers, [P, 2]."""
        return self._answers(model, batch)[0].sums(self.ld_alpha)

    def sizes(self, batch: dict[str, Any]) -> tuple[int, int]:
        """Return the number of pairs twice: each is one value and one sequence."""
        return count_pairs(batch), count_pairs(batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the precomputed log-probabilities of the reference."""
        return self.scores.state_dict() if self.precompute and self.scores else {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._require_scores().load_state_dict(saved)

    def _answers(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Answers, Tensor, Head]:
        """Return the answers, the hidden states [n, d] that predict their tokens, and the output layer."""
        predicting_positions, labels, sequence_index = find_supervised(batch)
        device = next(model.parameters()).device
        hidden, head = compute_hidden_and_head(model, batch, device)
        hidden = hidden.flatten(0, 1)[predicting_positions.to(device, non_blocking=True)]
        losses = self.token_losses(hidden, labels.to(device, non_blocking=True), head)
        answers = Answers.from_tokens(
            -losses, sequence_index.to(device, non_blocking=True), count_pairs(batch)
        )
        return answers, hidden, head

    @torch.no_grad()
    def _weights(self, answers: Answers, hidden: Tensor, head: Head) -> Tensor:
        """Return w_w w_l [P], w = exp(mean over tokens of log p_t - log sum_v p_v^2) (WPO, arXiv 2406.11827, eq. 2)."""

        def log_collision(h: Tensor) -> Tensor:
            return torch.logsumexp(2 * head(h).float().log_softmax(-1), -1)

        collisions = torch.cat([log_collision(h) for h in hidden.split(self.chunk_size)])
        return answers.means(answers.tokens - collisions).exp().prod(1)

    def _require_scores(self) -> ReferenceScores:
        if self.scores is None:
            raise UserError("DPO has not been set up with a run.", "objective")
        return self.scores


def _chosen_tokens(batch: dict[str, Any]) -> int:
    """Return the number of labelled tokens of the chosen answers."""
    return int((find_supervised(batch)[2] % 2 == 0).sum())


def _refuse(names: list[str], weights: list[float], dpo: DPO) -> None:
    """Raise on options that do not fit together.

    Raises:
        UserError: the first such option.
    """
    for name in names:
        if name not in LOSSES:
            raise UserError(f"there is no loss {name!r}.", "objective.loss_type", ", ".join(LOSSES))
    if not names or len(names) != len(weights):
        what = f"there are {len(weights)} weights for {len(names)} losses."
        raise UserError(what, "objective.loss_weights", "one number a loss, or null")
    if dpo.beta <= 0:
        raise UserError(f"beta={dpo.beta} must be above 0.", "objective.beta", "objective.beta=0.1")
    unsupported = set(names) - SCORE_LOSSES
    if dpo.f_divergence != "reverse_kl" and unsupported:
        raise UserError(
            f"f_divergence={dpo.f_divergence} is not defined for {', '.join(sorted(unsupported))}.",
            where="objective.f_divergence",
            fix=f"objective.f_divergence=reverse_kl, or one of {', '.join(sorted(SCORE_LOSSES))}",
        )
    if dpo.weighting and BATCH_LOSSES & set(names):
        what = f"{', '.join(sorted(BATCH_LOSSES & set(names)))} is not a sum over pairs, so pairs cannot be weighted."
        raise UserError(what, "objective.weighting", "objective.weighting=false")
    _refuse_smoothing(names, dpo.label_smoothing)


def _refuse_smoothing(names: list[str], epsilon: float) -> None:
    low = "exo_pair" in names
    if not 0 <= epsilon < 0.5 or (low and not epsilon):
        what = f"label_smoothing={epsilon} must be {'above 0 and ' if low else ''}below 0.5."
        raise UserError(what, "objective.label_smoothing", "objective.label_smoothing=0.1")
