"""Importance on grids whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.sweeps.search import one_factor_shares
from ftcli.sweeps.trial import FAILED, FINISHED, Trial


def grid(score):
    return [
        Trial(0, {"a": str(a), "b": str(b)}, [], Path("."), FINISHED, result={"metrics": {"m": score(a, b)}})
        for a in range(3)
        for b in range(3)
    ]  # fmt: skip


def test_a_key_that_does_all_explains_all():
    assert one_factor_shares(grid(lambda a, b: 2.0 * a), "m") == {"a": 1.0, "b": 0.0}


def test_shares_of_an_additive_score_sum_to_one_in_ratio_of_their_variances():
    assert one_factor_shares(grid(lambda a, b: 3.0 * a + b), "m") == pytest.approx(
        {"a": 0.9, "b": 0.1}
    )


def test_an_interaction_belongs_to_no_key():
    shares = one_factor_shares(grid(lambda a, b: float((a - 1) * (b - 1))), "m")
    assert shares == pytest.approx({"a": 0, "b": 0})


def test_failed_trials_and_constant_scores_say_nothing():
    trials = grid(lambda a, b: float(a))
    trials[0].status = FAILED
    assert one_factor_shares(trials[:1], "m") == {}
    assert one_factor_shares(grid(lambda a, b: 1.0), "m") == {}
