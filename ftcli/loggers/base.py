"""Base class of loggers: a tracker receives metrics with a step, from rank 0, and is closed once."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftcli.core.callback import Callback, State

if TYPE_CHECKING:
    from ftcli.core.run import Run

NOT_CURVES = {"step", "time", "row"}


class Logger(Callback, ABC):
    """Forwards logs and scores to one tracker; subclasses implement `open`, `write` and `close`.

    Every figure is in metrics.jsonl too, so the tracker never holds the only copy.
    """

    active = False

    @abstractmethod
    def open(self, run: Run) -> None:
        """Start the tracker's run.

        Raises:
            UserError: its package is not installed.
        """

    @abstractmethod
    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Send the metrics of one step."""

    @abstractmethod
    def close(self) -> None:
        """Flush and end the tracker's run."""

    def setup(self, run: Run) -> None:
        """Open the tracker on the first rank."""
        if os.environ.get("RANK", "0") == "0":
            self.open(run)
            self.active = True

    def on_log(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of one log."""
        self._forward(state, metrics)

    def on_evaluate(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Write the scores of one evaluation."""
        self._forward(state, metrics)

    def on_train_end(self, state: State) -> None:
        """Close the tracker."""
        if self.active:
            self.active = False
            self.close()

    def _forward(self, state: State, metrics: Mapping[str, Any]) -> None:
        if self.active:
            self.write(int(metrics.get("step", getattr(state, "step", 0))), select_curves(metrics))


def select_curves(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that are plotted as curves: `loss` as `train/loss`, `eval.bleu` as `eval/bleu`."""
    return {
        name.replace(".", "/") if "." in name else f"train/{name}": float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and name not in NOT_CURVES
    }


def flatten_config(run: Run) -> dict[str, Any]:
    """Return the run's resolved config as a flat mapping of dotted keys."""
    from omegaconf import OmegaConf

    config = run.config
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    return dict(flatten(plain))


def run_name(run: Run) -> str:
    """Return `<name>/<time>-<hex>`, the last two parts of the run directory."""
    folder = getattr(getattr(run, "dir", None), "path", None)
    return "/".join(str(folder).rstrip("/").split("/")[-2:]) if folder else "ftcli"


def flatten(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of nested mappings with their dotted keys; lists are leaves."""
    if not isinstance(node, Mapping):
        return [(prefix, node)]
    return [
        pair
        for key, value in node.items()
        for pair in flatten(value, f"{prefix}.{key}" if prefix else str(key))
    ]
