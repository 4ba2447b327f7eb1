"""Figures of the paper's own model, from its architecture alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.papers.greentrainer import measures
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
