"""Each plot is drawn from figures that exist, and left out without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftcli.run import plots
from ftcli.run.plots import draw_plots, smooth

SAVE_PNG = plots._save_png

ROWS = [{"step": 0, "eval.loss": 3.0}] + [
    {"step": s, "loss": 3 / s, "lr": 1e-3, "tok_s": 900.0 + s} for s in range(1, 40)
]
RESULT = {
    "metrics_before": {"eval.loss": 3.0, "eval.bleu": 0.2},
    "metrics": {"eval.loss": 1.0, "eval.bleu": 40.0, "eval.new": 1.0},
}


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """PNGs are drawn here, and nowhere else in the tests."""
    monkeypatch.setattr(plots, "_save_png", SAVE_PNG)


def test_every_plot_is_a_readable_png(tmp_path: Path):
    names = [path.stem for path in draw_plots(ROWS, RESULT, tmp_path)]
    assert names == ["loss", "learning_rate", "throughput", "before_after"]
    for name in names:
        image = Image.open(tmp_path / f"{name}.png")
        assert min(image.size) > 300 and len(image.convert("RGB").getcolors(1 << 20)) > 3


def test_without_figures_there_is_no_plot(tmp_path: Path):
    assert draw_plots([], {}, tmp_path) == []
    only_loss = draw_plots([{"step": 1, "loss": 2.0}], {"metrics": {"eval.loss": 1.0}}, tmp_path)
    assert [path.stem for path in only_loss] == ["loss"]


def test_smoothing_keeps_a_constant_and_does_not_lag_behind_a_change():
    assert smooth([2.0] * 200) == pytest.approx([2.0] * 200)
    step = smooth([1.0] * 100 + [0.0] * 100)
    assert step[50] > 0.99 and step[150] < 0.01
    assert step[99] > 0.5 > step[100] and step[99] + step[100] == pytest.approx(1, abs=1e-3)


def test_one_point_is_seen(tmp_path: Path):
    draw_plots([{"step": 3, "tok_s": 5.0}], {}, tmp_path)
    pixels = np.asarray(Image.open(tmp_path / "throughput.png").convert("RGB"))
    assert (pixels == (37, 99, 168)).all(-1).sum() > 20
