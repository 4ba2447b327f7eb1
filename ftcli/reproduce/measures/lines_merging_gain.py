"""Two tasks in one model: task arithmetic with and without LiNeS."""

from __future__ import annotations

from pathlib import Path

GRID = (0.2, 0.4, 0.6, 0.8, 1.0)


def lines_merging_gain(run: Path) -> float:
    """Mean test loss of two tasks, each over its own finetuned model's: with LiNeS minus without.

    Both mergers have one number, chosen on held-out rows: the scale of the sum, or beta with
    alpha = 1/2.
    """
    from ftcli.deltas.delta import Delta, compose
    from ftcli.papers.lines.scaling import scaled
    from ftcli.reproduce.deltas import TEST, VALIDATION, least, opened, partner

    tasks = [opened(run), opened(partner(run, "gsm8k"))]
    merged = compose([task.delta for task in tasks])

    def loss(change: Delta, split: str) -> float:
        return sum(t.loss(change, split) / t.loss(t.delta, split) for t in tasks) / len(tasks)

    def with_lines(beta: float) -> Delta:
        return scaled(merged, 1 / len(tasks), beta)

    beta = least(lambda b: loss(with_lines(b), VALIDATION), GRID)
    level = least(lambda s: loss(merged.scale(s), VALIDATION), GRID)
    return loss(with_lines(beta), TEST) - loss(merged.scale(level), TEST)
