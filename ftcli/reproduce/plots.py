"""Plots of a reproduction: curves with bands over seeds, quality against size, memory, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.run_dir import RunDir
from ftcli.reproduce.figures import QUALITY, collect_values
from ftcli.run.plots import BLUE, GREY, INK, STYLE, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ftcli.reproduce.experiment import Experiment

COLOURS = (
    BLUE, "#d9722b", "#3a8f5c", "#8458a8", "#b23a48", "#7a6a4f", "#c764a4", "#7f8690", "#a3a62e",
    "#2aa3b0",
)  # fmt: skip
CAPTIONS = {
    "training_loss": "Training loss, smoothed: mean over seeds, band from lowest to highest",
    "held_out_loss": "Held-out loss: mean over seeds, band from lowest to highest",
    "quality_size": "Held-out loss after training against trainable parameters",
    "memory": "Peak memory of the process",
    "time": "Seconds of training, evaluations not counted",
}


def draw_all(experiment: Experiment, folder: Path) -> list[Path]:
    """Draw every picture whose figures exist, as PNG files of `folder`; returns the files."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    values = {variant: collect_values(experiment, variant) for variant in experiment.variants}
    drawn: list[Path] = []
    with matplotlib.rc_context(STYLE):
        figures = {
            "training_loss": _curves(experiment, "loss", "Training loss"),
            "held_out_loss": _curves(experiment, QUALITY, "Held-out loss"),
            "quality_size": _quality(values),
            "memory": _bars(values, "peak_memory_gb", "Peak memory", "GB"),
            "time": _bars(values, "seconds", "Training time", "seconds"),
        }
        for name, figure in figures.items():
            if figure is not None:
                drawn.append(folder / f"{name}.png")
                figure.savefig(drawn[-1], dpi=130)
    return drawn


def band(runs: Sequence[Mapping[int, float]]) -> tuple[list[int], list[list[float]]]:
    """Return the steps that all seeds have, and the mean, lowest and highest value at each."""
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    rows = [[run[step] for run in runs] for step in steps]
    means = [sum(row) / len(row) for row in rows]
    return steps, [means, [min(row) for row in rows], [max(row) for row in rows]]


def _curves(experiment: Experiment, key: str, title: str) -> Figure | None:
    figure, axes = _canvas(title, "loss (nats per trained token)")
    lows, highs = [], []
    for variant, colour in zip(experiment.variants, _colours(experiment.variants), strict=True):
        runs = [_series(run.path, key) for run in experiment.trials_of(variant)]
        steps, (mean, low, high) = band(runs)
        if len(steps) < 2:
            return None
        axes.plot(steps, mean, color=colour, linewidth=1.8, label=variant)
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        later = [i for i, step in enumerate(steps) if step >= steps[-1] / 4]
        lows.append(min(low))
        highs.append(max(high[i] for i in later))
    axes.set_xlabel("optimizer step")
    axes.set_xlim(left=0)
    span = max(highs) - min(lows)
    if key == "loss" and span > 0:  # the first steps fall so far that the rest would be a line
        axes.set_ylim(min(lows) - 0.05 * span, max(highs) + 0.05 * span)
    figure.legend(loc="outside right upper")
    return figure


def _series(path: Path, key: str) -> dict[int, float]:
    rows = RunDir(path).metrics()
    series = {int(row["step"]): float(row[key]) for row in rows if row.get(key) is not None}
    if key != "loss":
        return series
    steps = sorted(series)
    return dict(zip(steps, smooth([series[step] for step in steps]), strict=True))


def _quality(values: Mapping[str, Mapping[str, list[float]]]) -> Figure | None:
    if not all({QUALITY, "trainable_parameters"} <= set(v) for v in values.values()):
        return None
    figure, axes = _canvas("Quality against size", "held-out loss (lower is better)")
    by_size = sorted(values, key=lambda variant: values[variant]["trainable_parameters"][0])
    for (variant, v), colour in zip(values.items(), _colours(list(values)), strict=True):
        size, losses = v["trainable_parameters"][0], v[QUALITY]
        mean = sum(losses) / len(losses)
        reach = [[mean - min(losses)], [max(losses) - mean]]
        axes.errorbar([size], [mean], yerr=reach, fmt="o", color=colour, capsize=3)
        beside = (6, -13 if by_size.index(variant) % 2 else 5)  # neighbours must not overlap
        axes.annotate(variant, (size, mean), xytext=beside, textcoords="offset points", color=INK)
    axes.set_xscale("log")
    axes.margins(x=0.18, y=0.12)
    axes.set_xlabel("trainable parameters")
    return figure


def _bars(
    values: Mapping[str, Mapping[str, list[float]]], key: str, title: str, unit: str
) -> Figure | None:
    """Draw one bar per variant with a dot per seed, the smallest at the top."""
    if not all(key in v for v in values.values()):
        return None
    means = {variant: sum(v[key]) / len(v[key]) for variant, v in values.items()}
    order = sorted(means, key=lambda variant: -means[variant])
    figure, axes = _canvas(title, "")
    axes.barh(order, [means[v] for v in order], color=BLUE, height=0.6, alpha=0.85)
    for place, variant in enumerate(order):
        seeds = values[variant][key]
        axes.plot(seeds, [place] * len(seeds), ".", color=INK, markersize=5)
        text, end = f"{means[variant]:.3g}", (max(seeds), place)
        axes.annotate(text, end, xytext=(8, 0), textcoords="offset points", va="center")
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.14)
    return figure


def _canvas(title: str, ylabel: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes: Any = figure.subplots()
    axes.set(title=title, ylabel=ylabel)
    return figure, axes


def _colours(variants: Sequence[str]) -> list[str]:
    return [COLOURS[i] if i < len(COLOURS) else GREY for i in range(len(variants))]
