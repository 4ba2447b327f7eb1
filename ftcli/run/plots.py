"""Plots of a run: loss, learning rate, throughput, and scores before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.evaluation.scores import less_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

BLUE, ORANGE, GREY, INK = "#2563a8", "#d9722b", "#b8bec7", "#30363d"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}
MOST_PANELS = 8
SPARSE = 12  # curves of fewer points get a marker at each
FEW = 30  # curves of at most so many points are not smoothed


def draw_plots(rows: Sequence[Row], result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw each plot whose figures exist as a PNG file of `folder`; returns the files."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    with matplotlib.rc_context(STYLE):
        for name, figure in _draw_figures(rows, result):
            path = folder / f"{name}.png"
            _save_png(figure, path)
            drawn.append(path)
    return drawn


def _save_png(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=130)


def smooth(values: Sequence[float]) -> list[float]:
    """Return the mean of a forward and a backward exponential average over a thirtieth of the points.

    Averages of both directions do not lag behind where the loss falls fast.
    """
    weight = min(0.98, max(0.0, 1 - FEW / max(1, len(values))))
    forward = _smooth_losses(values, weight)
    backward = _smooth_losses(values[::-1], weight)[::-1]
    return [(f + b) / 2 for f, b in zip(forward, backward, strict=True)]


def _smooth_losses(values: Sequence[float], weight: float) -> list[float]:
    """Exponential averages, their initial bias corrected as in Adam (Kingma and Ba 2015, section 3)."""
    past, averages = 0.0, []
    for count, value in enumerate(values, start=1):
        past = weight * past + (1 - weight) * value
        averages.append(past / (1 - weight**count))
    return averages


def _draw_figures(rows: Sequence[Row], result: Mapping[str, Any]) -> list[tuple[str, Figure]]:
    figures = [
        ("loss", _draw_loss(rows)),
        ("learning_rate", _draw_curve(rows, "lr", "Learning rate", "learning rate")),
        ("throughput", _draw_throughput(rows)),
        ("before_after", _draw_before_after(result)),
    ]
    return [(name, figure) for name, figure in figures if figure is not None]


def _select_series(rows: Sequence[Row], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of the rows that have the key; the last row of a step counts."""
    values = {int(row["step"]): float(row[key]) for row in rows if row.get(key) is not None}
    steps = sorted(values)
    return steps, [values[step] for step in steps]


def _create_canvas(title: str, ylabel: str, steps: Sequence[int]) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="optimizer step", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, max(1, *steps) * 1.01)
    return figure, axes


def _draw_line(axes: Axes, steps: Sequence[int], values: Sequence[float], **style: Any) -> None:
    marker = "o" if len(steps) < SPARSE else ""
    axes.plot(steps, values, marker=marker, clip_on=False, **style)


def _draw_loss(rows: Sequence[Row]) -> Figure | None:
    steps, losses = _select_series(rows, "loss")
    held_steps, held = _select_series(rows, "eval.loss")
    if not steps and not held_steps:
        return None
    from matplotlib.patheffects import withStroke

    figure, axes = _create_canvas("Loss", "loss (nats per trained token)", steps + held_steps)
    axes.margins(y=0.08)
    if len(steps) > FEW:
        axes.plot(steps, losses, color=GREY, linewidth=1, label="training, each log")
        axes.plot(steps, smooth(losses), color=BLUE, linewidth=2, label="training, smoothed")
    elif steps:
        _draw_line(axes, steps, losses, color=BLUE, linewidth=2, label="training")
    if held_steps:
        style = {"linestyle": "--", "linewidth": 1.2}
        _draw_line(axes, held_steps, held, color=ORANGE, label="validation", **style)
        for step, value in {held_steps[0]: held[0], held_steps[-1]: held[-1]}.items():
            axes.annotate(
                f"{value:.3f}",
                (step, value),
                xytext=(8 if step == held_steps[0] else 0, 8),
                textcoords="offset points",
                ha="left" if step == held_steps[0] else "right",
                color=ORANGE,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
    axes.legend(loc="upper right")
    return figure


def _draw_curve(rows: Sequence[Row], key: str, title: str, ylabel: str) -> Figure | None:
    steps, values = _select_series(rows, key)
    if not steps:
        return None
    figure, axes = _create_canvas(title, ylabel, steps)
    _draw_line(axes, steps, values, color=BLUE, linewidth=2)
    if key == "lr":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    if max(values) > 0:
        axes.set_ylim(0, max(values) * 1.08)
    return figure


def _draw_throughput(rows: Sequence[Row]) -> Figure | None:
    figure = _draw_curve(rows, "tok_s", "Throughput", "tokens per second, padding not counted")
    if figure is None:
        return None
    from matplotlib.ticker import StrMethodFormatter

    axes = figure.axes[0]
    values = sorted(_select_series(rows, "tok_s")[1])
    median = values[len(values) // 2]
    axes.axhline(median, color=ORANGE, linestyle="--", linewidth=1, label=f"median {median:,.0f}")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(loc="lower right")
    return figure


def _draw_before_after(result: Mapping[str, Any]) -> Figure | None:
    """One panel a score, because their scales differ."""
    before, after = result.get("metrics_before") or {}, result.get("metrics") or {}
    names = [
        name
        for name, value in after.items()
        if isinstance(value, int | float) and isinstance(before.get(name), int | float)
    ][:MOST_PANELS]
    if not names:
        return None
    from matplotlib.figure import Figure

    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(1.9 * columns + 0.4, 2.7 * lines + 0.4), layout="constrained")
    figure.suptitle("Before and after training", fontsize=11, fontweight="bold")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        _draw_bars(axes, name.removeprefix("eval."), before[name], after[name])
    return figure


def _draw_bars(axes: Axes, name: str, before: float, after: float) -> None:
    axes.set_axis_on()
    bars = axes.bar(["before", "after"], [before, after], color=[GREY, BLUE], width=0.62)
    axes.bar_label(bars, labels=[f"{before:.4g}", f"{after:.4g}"], padding=2)
    axes.set_title(name, loc="center", fontweight="normal")
    lower = less_is_better(name)
    axes.set_xlabel("lower is better" if lower else "higher is better", color="#6b7280", fontsize=8)
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.margins(y=0.18)
