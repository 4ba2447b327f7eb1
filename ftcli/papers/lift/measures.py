"""Measurements of the lift recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

RANK = 128
STEPS = 3


@measure(exact=True)
def lift_budget_llama2_7b(_run: Path) -> float:
    """Sum of min((m + n) * 128, m * n) over the linears of the architecture, on the meta device."""
    from ftcli.models.causal_lm import CausalLMSource
    from ftcli.papers.lift.trainable import count_entries

    source = CausalLMSource("meta-llama/Llama-2-7b-hf", architecture="llama2_7b")
    return float(count_entries(source.build_meta_model(), RANK))


@measure(exact=True)
def lift_budget_llama3_8b(_run: Path) -> float:
    """Sum of min((m + n) * 128, m * n) over the linears of the architecture, on the meta device."""
    from ftcli.models.causal_lm import CausalLMSource
    from ftcli.papers.lift.trainable import count_entries

    source = CausalLMSource("meta-llama/Meta-Llama-3-8B", architecture="llama3_8b")
    return float(count_entries(source.build_meta_model(), RANK))


@measure(exact=True)
def lift_support_excess(run: Path) -> float:
    """Count deviations from the budget over all matrices, after three steps with one choice of entries.

    A deviation is each entry too many or too few in the support of a matrix, each entry outside the
    support that the steps changed, and each changed entry of another tensor.
    """
    from ftcli.papers.lift.trainable import budget
    from ftcli.reproduce.probe import rebuild_run

    length = {"max_steps": STEPS, "eval_first": False, "eval_every": None}
    fresh = rebuild_run(run, trainer=length, trainable={"interval": None})
    fresh.load_model()
    policy: Any = fresh.trainable
    fresh.evaluators = {}
    before = {name: p.detach().clone() for name, p in fresh.model.named_parameters()}
    fresh.trainer.fit(fresh)
    deviations = 0
    for name, parameter in fresh.model.named_parameters():
        moved = (parameter != before[name]).flatten()
        support = fresh.optimizer_builder.optimizer.support(parameter)
        if support is not None:
            deviations += abs(len(support) - budget(parameter, policy.rank))
            moved[support] = False
        deviations += int(moved.sum())
    return float(deviations)
