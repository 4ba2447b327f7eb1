"""Figures of the paper's own model, from its architecture alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ftcli.papers.greentrainer import measures
from ftcli.papers.greentrainer.measurement import Replay, measure_flops
from ftcli.papers.greentrainer.model import OptSource


def test_costs_of_opt_are_the_authors():
    """Counts of `tensor_flops.py` of pittisl/GreenTrainer at 7b7a9fe1, GMACs for 4 rows of 512 tokens."""
    costs, every = measures._record_opt()
    assert costs.forward / 1e9 == pytest.approx(5591.530, rel=1e-3)
    assert costs.compute_backward(every) / 1e9 == pytest.approx(11180.979, rel=1e-3)
    assert measures.opt_2_7b_rho_bp(Path()) == pytest.approx(0.25, abs=1e-3)


def test_an_opt_is_built_by_its_sizes():
    small = OptSource("facebook/opt-6.7b", hidden_size=4096).build_meta_model()
    assert sum(p.numel() for p in small.parameters()) == 6_658_473_984


def test_figures_of_a_run_follow_its_selections(train_tiny):
    folder = train_tiny(
        "method=full", "model.quantization=none", "trainable=greentrainer", "trainable.rho=0.6",
        "trainable.interval_epochs=null", "trainable.interval_steps=2", "eval=none",
    )  # fmt: skip
    flops = measure_flops(folder)
    assert flops.steps == (2, 1)
    assert 0.2 < measures.backward_flops_share(folder) < 0.45
    assert -0.03 < measures.budget_excess(folder) <= 0
    assert measures.cost_model_error(folder) < 0.02
    steps = 2 * flops.backward[0] + flops.backward[1] + 3 * flops.forward
    assert math.isclose(measures.training_flops(folder), steps + 2 * flops.selecting)
    # recorded forward pass, and twice forward and part of backward
    assert 3 * flops.forward < flops.selecting < 3 * flops.forward + 2 * flops.full_backward
    assert 0.2 < Replay(folder).measure_step_time() < 1


def test_a_run_without_a_policy_trains_everything(full_run):
    flops = measure_flops(full_run)
    assert flops.steps == (3,) and flops.backward == (flops.full_backward,)
    assert flops.selecting == 0 and measures.backward_flops_share(full_run) == 1
