"""Values and gradients of every loss are those of TRL's trainer, fed with the same logits."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ftcli.objectives.dpo import DPO
from ftcli.objectives.preference_losses import LOSSES, SCORE_LOSSES
from tests.objectives.pairs import Logits, batch_of, logits_of

pytestmark = pytest.mark.slow
LENGTHS = [(5, 3), (2, 7), (4, 4), (1, 6), (6, 2)]
CLOSE = 1e-5


class Answering(nn.Module):
    """A model of logits [B, T, V] as TRL wants one: log-probabilities of the labels of the answers."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())
        self.is_gradient_checkpointing = False

    def forward(self, labels, **_):
        logps, labels = self.logits[:, :-1].log_softmax(-1), labels[:, 1:]
        there = labels != -100
        taken = logps.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
        zeros = torch.zeros_like(taken)
        return SimpleNamespace(
            log_probs=torch.where(there, taken, zeros),
            log_sum_sq_probs=torch.logsumexp(2 * logps, -1),
            entropy=zeros,
            mean_logits=zeros,
            is_top1=there,
        )


def trl_loss(policy, reference, batch, objective: DPO) -> torch.Tensor:
    """The loss of TRL's `DPOTrainer` on [chosen, rejected] rows."""
    trainer = pytest.importorskip("trl.trainer.dpo_trainer").DPOTrainer
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    names = [objective.loss_type] if isinstance(objective.loss_type, str) else objective.loss_type
    stand_in = SimpleNamespace(
        model=policy, ref_model=reference, accelerator=accelerator, aux_loss_enabled=False,
        ld_alpha=objective.ld_alpha, precompute_ref_logps=False, beta=objective.beta,
        label_smoothing=objective.label_smoothing, loss_types=names,
        loss_weights=objective.loss_weights or [1.0] * len(names),
        f_divergence_type=objective.f_divergence, f_alpha_divergence_coef=objective.f_alpha,
        use_weighting=objective.weighting, _total_train_tokens=0, _tp_size=1,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        args=SimpleNamespace(
            gradient_checkpointing_kwargs=None, discopop_tau=objective.discopop_tau
        ),
    )  # fmt: skip
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "completion_mask": (batch["labels"] != -100).long(),
    }
    return trainer._compute_loss(stand_in, policy, inputs, False)


CASES = [{"loss_type": name} for name in LOSSES if name != "exo_pair"]
CASES += [
    {"loss_type": n, "label_smoothing": 0.2} for n in ("robust", "exo_pair", "aot", "aot_unpaired")
]
CASES += [
    {"loss_type": name, "f_divergence": kind}
    for name in sorted(SCORE_LOSSES - {"exo_pair", "sft"})
    for kind in ("forward_kl", "js_divergence", "alpha_divergence")
]
CASES += [
    {"ld_alpha": 0.3},
    {"ld_alpha": 0.0, "loss_type": "ipo"},
    {"weighting": True},
    {"weighting": True, "loss_type": "apo_zero"},
    {"beta": 0.7, "loss_type": "discopop", "discopop_tau": 0.5},
    {"f_divergence": "alpha_divergence", "f_alpha": 1.0},
    {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
]


@pytest.mark.parametrize("options", CASES, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_values_and_gradients_are_those_of_trl(options):
    objective = DPO(**options)
    batch = batch_of(LENGTHS)
    ours, theirs = Logits(logits_of(batch, 1)), logits_of(batch, 2)
    with torch.no_grad():
        batch["reference"] = objective.log_probabilities(Logits(theirs), batch)
    loss = objective.numerator(objective(ours, batch)) / objective.denominator([batch])
    loss.backward()
    order = torch.arange(2 * len(LENGTHS)).view(-1, 2).T.flatten()
    turned = {
        k: v[order] for k, v in batch.items() if k in ("input_ids", "labels", "attention_mask")
    }
    policy = Answering(ours.values.detach()[order])
    expected = trl_loss(policy, Answering(theirs[order]), turned, objective)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=CLOSE, rel=CLOSE)
    gradient = policy.logits.grad
    assert (ours.values.grad[order] - gradient).abs().max() <= CLOSE * max(1, gradient.abs().max())
    assert gradient.abs().max() > 1e-4
