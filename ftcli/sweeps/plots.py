"""Plots of a sweep: parallel coordinates, and the importance of keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.run.plots import BLUE, GREY, INK, ORANGE, STYLE
from ftcli.sweeps.plan import Plan
from ftcli.sweeps.search import Importance
from ftcli.sweeps.space import LOG_FROM, parse_value
from ftcli.sweeps.trial import FINISHED, PRUNED, Trial, shorten_keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_TICKS = 6


def draw_all(
    trials: Sequence[Trial], plan: Plan, importance: Importance, folder: Path
) -> list[Path]:
    """Draw every plot with enough data as PNG files in `folder`; returns the files."""
    import matplotlib

    folder.mkdir(exist_ok=True)
    drawn = []
    with matplotlib.rc_context(STYLE):
        for name, figure in (
            ("parallel_coordinates", plot_parallel_coordinates(trials, plan)),
            ("importance", plot_importance(importance, plan.metric)),
        ):
            if figure is not None:
                figure.savefig(folder / f"{name}.png", dpi=130)
                drawn.append(folder / f"{name}.png")
    return drawn


class Scale:
    """Position of the values of one column between 0 and 1, with ticks.

    Numbers are placed in proportion, logarithmically where they are positive and span a decade or
    more. Few numbers, and values other than numbers, are placed at equal distances.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.distinct = list(dict.fromkeys(texts))
        numbers = [_parse_number(text) for text in self.distinct]
        self.numeric = all(n is not None for n in numbers) and len(self.distinct) > MAX_TICKS
        known = [n for n in numbers if n is not None]
        if len(known) == len(numbers):
            pairs = sorted(zip(known, self.distinct, strict=True))
            self.distinct = [text for _, text in pairs]
        if self.numeric:
            self.low, self.high = min(known), max(known)
            self.log = self.low > 0 and self.high / self.low >= LOG_FROM / 10

    def compute_height(self, text: str) -> float:
        """Return the height of a value."""
        if not self.numeric:
            return self.distinct.index(text) / max(1, len(self.distinct) - 1)
        number = _parse_number(text)
        assert number is not None
        return float(self._share(number))

    def _share(self, number: float) -> float:
        from math import log

        if self.log:
            return log(number / self.low) / log(self.high / self.low)
        return (number - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return height and label of each tick."""
        if not self.numeric:
            return [(self.compute_height(text), text) for text in self.distinct]
        from matplotlib.ticker import LogLocator, MaxNLocator

        locator = LogLocator(subs=(1.0, 3.0)) if self.log else MaxNLocator(6)
        numbers = [
            n for n in locator.tick_values(self.low, self.high) if self.low <= n <= self.high
        ]
        return [(self._share(n), f"{n:.4g}") for n in numbers]


def plot_parallel_coordinates(trials: Sequence[Trial], plan: Plan) -> Figure | None:
    """Draw one line per trial through its values to its score; the best is highlighted, pruned ones are grey."""
    scored = [(t, s) for t in trials if (s := t.score(plan.metric)) is not None]
    done = [(t, s) for t, s in scored if t.status == FINISHED]
    if not done:
        return None
    from matplotlib.figure import Figure

    keys = list(done[0][0].point)
    scales = [Scale([t.point[key] for t, _ in scored]) for key in keys]
    low, high = min(s for _, s in scored), max(s for _, s in scored)
    figure = Figure(figsize=(2.1 * (len(keys) + 1) + 1, 4.2), layout="constrained")
    axes = figure.subplots()
    best = (min if plan.lower else max)(done, key=lambda pair: pair[1])[0]
    colours = _colours(done, plan.lower)
    for trial, score in sorted(scored, key=lambda pair: pair[0] is best):
        heights = [
            scale.compute_height(trial.point[k]) for k, scale in zip(keys, scales, strict=True)
        ]
        heights.append((score - low) / (high - low) if high > low else 0.5)
        style = _line_style(trial, trial is best, colours)
        axes.plot(range(len(heights)), heights, **style)
    for index, scale in enumerate(scales):
        _draw_axis(axes, index, scale.ticks())
    _draw_axis(axes, len(keys), _score_ticks(low, high), last=True)
    _label_axes(axes, [*shorten_keys(keys).values(), plan.metric], plan, len(scored) > len(done))
    return figure


def plot_importance(importance: Importance, metric: str) -> Figure | None:
    """Draw one bar per key, the most important on top."""
    if not importance.shares:
        return None
    from matplotlib.figure import Figure

    pairs = sorted(importance.shares.items(), key=lambda pair: pair[1])
    figure = Figure(figsize=(6.4, 0.45 * len(pairs) + 1.3), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(
        [key for key, _ in pairs], [share for _, share in pairs], color=BLUE, height=0.6
    )
    axes.bar_label(drawn, labels=[f"{share:.0%}" for _, share in pairs], padding=3)
    axes.set_title(f"Which keys move {metric}")
    axes.set_xlabel(f"share of the variation explained ({importance.method})")
    axes.set_xlim(0, max(1e-9, *importance.shares.values()) * 1.15)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(axis="y", visible=False)
    return figure


def _parse_number(text: str) -> float | None:
    number = parse_value(text)
    usable = isinstance(number, int | float) and not isinstance(number, bool)
    return float(number) if usable else None


def _colours(done: Sequence[tuple[Trial, float]], lower: bool) -> dict[int, Any]:
    """Return trial number -> colour by rank of the score; better scores are darker."""
    from matplotlib import colormaps

    ranked = sorted(done, key=lambda pair: pair[1], reverse=lower)
    shades = colormaps["Blues"]
    return {
        trial.number: shades(0.25 + 0.75 * rank / max(1, len(ranked) - 1))
        for rank, (trial, _) in enumerate(ranked)
    }


def _line_style(trial: Trial, best: bool, colours: Mapping[int, Any]) -> dict[str, Any]:
    if best:
        return {"color": ORANGE, "linewidth": 2.6, "zorder": 4, "label": "best"}
    if trial.status == PRUNED:
        return {"color": GREY, "linewidth": 1, "linestyle": ":", "zorder": 2}
    return {"color": colours.get(trial.number, GREY), "linewidth": 1.3, "zorder": 3}


def _draw_axis(
    axes: Axes, index: int, ticks: Sequence[tuple[float, str]], last: bool = False
) -> None:
    axes.plot([index, index], [0, 1], color=INK, linewidth=1, zorder=1)
    for height, label in ticks:
        axes.plot([index - 0.015, index + 0.015], [height, height], color=INK, linewidth=1)
        axes.annotate(
            label, (index, height), xytext=(6 if last else -6, 0), textcoords="offset points",
            ha="left" if last else "right", va="center", fontsize=8.5, zorder=5,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        )  # fmt: skip


def _score_ticks(low: float, high: float) -> list[tuple[float, str]]:
    if not high > low:
        return [(0.5, f"{low:.4g}")]
    return [(share / 4, f"{low + (high - low) * share / 4:.4g}") for share in range(5)]


def _label_axes(axes: Axes, names: Sequence[str], plan: Plan, pruned: bool) -> None:
    axes.set_xticks(range(len(names)), names)
    axes.xaxis.tick_top()
    axes.tick_params(top=False, labelsize=10)
    axes.set_yticks([])
    axes.grid(False)
    for side in ("left", "bottom", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlim(-0.45, len(names) - 0.5)
    better = "lower" if plan.lower else "higher"
    dotted = "; dotted: pruned" if pruned else ""
    text = f"one line a trial; orange: the best ({better} is better); dark: good{dotted}"
    axes.set_xlabel(text, fontsize=8.5, color="#6b7280")
