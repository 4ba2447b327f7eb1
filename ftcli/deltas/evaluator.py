"""Held-out scores of arbitrary weights, with the data and evaluators of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.deltas.artefact import Kind
from ftcli.deltas.publish import build_config
from ftcli.evaluation.named_sets import add_score

LOSS = "eval.loss"


class RunEvaluator:
    """Evaluates weights in the model of a run.

    Args:
        folder: the run directory whose data and evaluators are used.
        kind: whether whole models or adapters are evaluated.
        metric: name of a score in result.json.
    """

    def __init__(self, folder: str | Path, kind: Kind, metric: str = LOSS) -> None:
        from ftcli.core.base_model import refuse_other_base
        from ftcli.core.run_dir import RunDir
        from ftcli.run.build import build_run

        self.folder, self.kind, self.metric = RunDir.open(folder).path, kind, metric
        config = build_config(self.folder, kind)
        self.run = build_run({**config, "logger": {}})
        refuse_other_base(self.folder, self.run.model_source)

    @cached_property
    def model(self) -> Any:
        """The model of the run, in eval mode."""
        return self.run.load_model().eval()

    @property
    def lower(self) -> bool:
        """Whether a lower metric is better."""
        from ftcli.evaluation.scores import less_is_better

        return less_is_better(self.metric)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors into the model, one at a time; other tensors keep their values.

        Raises:
            UserError: a name is no tensor of the model.
        """
        if self.kind == "adapter":
            self.run.method.load_trained_tensors(
                self.model, {name: tensors[name] for name in tensors}
            )
            return
        parameters = dict(self.model.named_parameters())
        unknown = [name for name in tensors if name not in parameters]
        buffers = dict(self.model.named_buffers())
        if any(name not in buffers for name in unknown):
            raise UserError(
                f"the model has no parameter {unknown[0]}: its files use other names for the weights.",
                fix="write the folder, then evaluate it with ftcli eval",
            )
        with torch.no_grad():
            for name in tensors:
                if name in parameters:
                    parameters[name].copy_(tensors[name])

    def score(self, tensors: Mapping[str, Tensor] | None = None, split: str | None = None) -> float:
        """Return the metric of these tensors, or of the loaded ones if None; NaN counts as the worst value.

        Raises:
            UserError: no evaluator of the run gives the metric.
        """
        if tensors is not None:
            self.load(tensors)
        self.run.load_model()
        scores: dict[str, float] = {}
        with self.run.evaluation_weights():
            for name, evaluator in self._evaluators().items():
                if split and "/" in name:  # rows of their own, in place of a split
                    continue
                chosen = replace(evaluator, split=split) if split else evaluator
                for key, value in chosen(self.run).items():
                    add_score(scores, name, key, value)
        if self.metric not in scores:
            raise UserError(
                f"no evaluator of {self.folder} gives {self.metric}.",
                where="--metric",
                fix=f"one of: {', '.join(scores)}",
            )
        value = scores[self.metric]
        return value if value == value else float("inf") * (1 if self.lower else -1)

    def better(self, score: float, other: float) -> bool:
        """Whether the first score is strictly better."""
        return score < other if self.lower else score > other

    def _evaluators(self) -> dict[str, Any]:
        """Return the evaluators of the run, or the loss alone where the metric is the loss."""
        from ftcli.evaluation.loss import Loss

        every = self.run.evaluators
        if self.metric != LOSS:
            return every
        return {n: e for n, e in every.items() if isinstance(e, Loss)} or {"loss": Loss()}
