"""The pictures show what the trials were."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.run.plots import ORANGE
from ftcli.sweeps.plan import Plan
from ftcli.sweeps.plots import Scale, plot_importance, plot_parallel_coordinates
from ftcli.sweeps.search import Importance
from ftcli.sweeps.trial import FINISHED, Trial


def trials(scores):
    return [
        Trial(n, {"method.r": str(2**n), "method": "lora"}, [], Path("."), FINISHED,
              result={"metrics": {"eval.loss": score}})
        for n, score in enumerate(scores)
    ]  # fmt: skip


def test_few_values_stand_at_equal_distances_in_order_of_size():
    scale = Scale(["16", "4", "8"])
    assert [scale.compute_height(t) for t in ("4", "8", "16")] == [0, 0.5, 1]
    assert scale.ticks() == [(0, "4"), (0.5, "8"), (1, "16")]
    assert [Scale(["nf4", "none"]).compute_height(t) for t in ("nf4", "none")] == [0, 1]


def test_many_numbers_stand_in_proportion_and_logarithmically_over_a_decade():
    even = Scale([str(n) for n in range(11)])
    assert even.compute_height("3") == pytest.approx(0.3)
    log = Scale([repr(10.0**-n) for n in range(9)])
    assert log.compute_height("0.01") == pytest.approx(0.75)
    assert all(0 <= height <= 1 for height, _ in log.ticks())


def test_the_best_trial_stands_out():
    figure = plot_parallel_coordinates(trials([3.0, 2.0, 2.5]), Plan("job", []))
    (best,) = [line for line in figure.axes[0].lines if line.get_color() == ORANGE]
    assert list(best.get_ydata()) == [0.5, 0.0, 0.0]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["r", "method", "eval.loss"]
    upward = plot_parallel_coordinates(trials([3.0, 2.0, 2.5]), Plan("job", [], lower=False))
    (best,) = [line for line in upward.axes[0].lines if line.get_color() == ORANGE]
    assert best.get_ydata()[-1] == 1.0


def test_nothing_is_drawn_of_nothing():
    assert plot_parallel_coordinates([], Plan("job", [])) is None
    assert plot_importance(Importance({}, ""), "eval.loss") is None


def test_bars_are_shares_with_the_largest_on_top():
    axes = plot_importance(Importance({"a": 0.2, "b": 0.7}, "fANOVA"), "eval.loss").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.7]
    assert "fANOVA" in axes.get_xlabel()
