"""Every loss type gives the values and gradients of TRL's on random inputs."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from ftcli.objectives.grpo import GRPO
from ftcli.objectives.policy_loss import LossType

pytestmark = pytest.mark.slow
GROUP, ANSWERS, LONGEST, MICRO_BATCHES = 4, 8, 9, 2
TYPES = LossType.__args__
VARIANTS = {
    "plain": {},
    "old": {"old": True},
    "sequence": {"old": True, "importance_sampling_level": "sequence"},
    "high": {"old": True, "epsilon_high": 0.28},
    "two_sided": {"old": True, "delta": 1.15},
    "kl": {"old": True, "beta": 0.04},
    "kl_ratio": {"old": True, "beta": 0.04, "kl_times_ratio": True},
    "entropy_quantile": {"old": True, "top_entropy_quantile": 0.4},
    "off_policy": {"old": True, "off_policy_mask_threshold": 0.01},
    "bonus": {"old": True, "entropy_coef": 0.3},
    "bonus_quantile": {"old": True, "entropy_coef": 0.3, "top_entropy_quantile": 0.4},
    "cut": {"old": True, "cut": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", TYPES)
def test_values_and_gradients_are_those_of_trl(kind, variant):
    options = dict(VARIANTS[variant])
    if kind == "cispo":
        options.setdefault("epsilon_high", 1.1)
    batches = [drawn(seed, options.pop("old", False), options.get("beta", 0.0),
                     options.pop("cut", False)) for seed in range(1)]  # fmt: skip
    batches += [drawn(9, "old" in batches[0], options.get("beta", 0.0), False)]
    loss, our_gradients = ours(kind, options, batches)
    theirs, their_gradients = trl(kind, options, batches)
    assert loss == pytest.approx(theirs, abs=1e-5)
    assert max(map(float, map(torch.norm, our_gradients))) > 0
    for gradient, other in zip(our_gradients, their_gradients, strict=True):
        assert torch.allclose(gradient, other, atol=1e-5)


def drawn(seed: int, old: bool, beta: float, cut: bool) -> dict:
    """Logits [A, T, V], tokens, lengths; an answer without tokens stands for a masked one."""
    maker = torch.Generator().manual_seed(seed)
    logits = torch.randn(ANSWERS, LONGEST, 7, generator=maker)
    lengths = torch.randint(1, LONGEST + 1, (ANSWERS,), generator=maker)
    if cut:
        lengths[2] = 0
    mask = (torch.arange(LONGEST) < lengths[:, None]).long()
    tokens = torch.randint(0, 7, (ANSWERS, LONGEST), generator=maker)
    there = {"logits": logits, "tokens": tokens, "mask": mask}
    there["advantages"] = torch.randn(ANSWERS, generator=maker)
    log_probs = read(logits, tokens)[0]
    if old:
        there["old"] = log_probs + 0.3 * torch.randn(log_probs.shape, generator=maker)
    if beta:
        there["reference"] = log_probs + 0.3 * torch.randn(log_probs.shape, generator=maker)
    return there


def read(logits, tokens):
    logs = logits.log_softmax(-1)
    return logs.gather(-1, tokens[..., None]).squeeze(-1), -(logs.exp() * logs).sum(-1)


def ours(kind, options, batches):
    objective = GRPO(rewards={"length": 1}, loss_type=kind, max_new_tokens=LONGEST, **options)
    scored, leaves = [], []
    for arrays in batches:
        logits = arrays["logits"].clone().requires_grad_()
        log_probs, entropy = read(logits, arrays["tokens"])
        there = arrays["mask"].bool()
        batch = {"advantages": arrays["advantages"], "answers": ANSWERS, "figures": {}}
        batch["targets"] = arrays["tokens"][there]
        batch["owner"] = torch.arange(ANSWERS)[:, None].expand_as(there)[there]
        batch |= {k: arrays[k][there] for k in ("old", "reference") if k in arrays}
        scored.append((batch, (log_probs[there], entropy[there])))
        leaves.append(logits)
    denominator = objective.denominator([batch for batch, _ in scored])
    total = 0.0
    for batch, scores in scored:
        batch["share"] = denominator / len(scored)
        objective.token_log_probs = lambda model, batch, scores=scores: scores
        loss = objective.numerator(objective(None, batch)) / denominator
        loss.backward()
        total += loss.item()
    return total, [leaf.grad for leaf in leaves]


def trl(kind, options, batches):
    trainer_of = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    trainer = trainer_of.__new__(trainer_of)
    whole = sum(arrays["mask"].sum() for arrays in batches)
    settings = {
        "loss_type": kind, "epsilon_low": 0.2, "epsilon_high": options.get("epsilon_high") or 0.2,
        "beta": options.get("beta", 0.0), "top_entropy_quantile": options.get("top_entropy_quantile", 1.0),
        "off_policy_mask_threshold": options.get("off_policy_mask_threshold"),
        "importance_sampling_level": options.get("importance_sampling_level", "token"),
        "use_vllm": False, "aux_loss_enabled": False, "use_adaptive_entropy": False,
        "entropy_coef": options.get("entropy_coef", 0.0), "max_completion_length": LONGEST,
        "_entropy_bonus_enabled": bool(options.get("entropy_coef")),
        "current_gradient_accumulation_steps": len(batches), "model": SimpleNamespace(training=True),
        "_metrics": {"train": defaultdict(list)},
    }  # fmt: skip
    trainer.__dict__.update(settings)
    trainer.args = SimpleNamespace(
        use_bias_correction_kl=options.get("kl_times_ratio", False), delta=options.get("delta"),
        sapo_temperature_pos=1.0, sapo_temperature_neg=1.05, vespo_k_pos=2.0, vespo_lambda_pos=3.0,
        vespo_k_neg=3.0, vespo_lambda_neg=2.0, steps_per_generation=len(batches),
    )  # fmt: skip
    trainer.accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=False,
        pad_across_processes=lambda x, dim, pad_index: x,
    )  # fmt: skip
    total, gradients = 0.0, []
    for arrays in batches:
        logits = arrays["logits"].clone().requires_grad_()
        scores = read(logits, arrays["tokens"])
        trainer._get_per_token_logps_and_entropies = lambda *_, s=scores, **__: (*s, None)
        mask = arrays["mask"]
        inputs = {"prompt_ids": mask[:, :0], "prompt_mask": mask[:, :0], "completion_ids": arrays["tokens"],
                  "completion_mask": mask, "advantages": arrays["advantages"], "num_items_in_batch": whole}  # fmt: skip
        if "old" in arrays:
            inputs["old_per_token_logps"] = arrays["old"]
        if "reference" in arrays:
            inputs["ref_per_token_logps"] = arrays["reference"]
        loss = trainer._compute_loss(None, inputs)
        loss.backward()
        total += loss.item()
        gradients.append(logits.grad)
    return total, gradients
