"""A source of `ftcli delta`: its delta, its base, and the run that can evaluate it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftcli.core.errors import UserError
from ftcli.deltas import storage
from ftcli.deltas.artefact import Artefact
from ftcli.deltas.delta import Delta
from ftcli.deltas.evaluator import RunEvaluator
from ftcli.deltas.publish import Result, write_result
from ftcli.deltas.report import Report
from ftcli.deltas.weights import LazyWeights


class Source:
    """A run, a model or adapter folder, or a saved delta.

    Args:
        base: the base model, where the source does not record it.
        product: for a LoRA, use the change of the base's matrices.

    Raises:
        UserError: the path is none of these, or has no base.
    """

    def __init__(self, path: str, base: str | None = None, product: bool = False) -> None:
        self.path = path
        self.run = Path(path) if (Path(path) / "config.yaml").exists() else None
        places = storage.read_places(path) if storage.is_delta(path) else {}
        if Path(places.get("run", "")).joinpath("config.yaml").exists() and "run" in places:
            self.run = Path(places["run"])
        named = base or places.get("base")
        if named is None and storage.is_delta(path):
            raise UserError(f"{path} does not say where its base lies.", "--base")
        self.base = Artefact.open(named) if named else Artefact.open(path).base
        self.delta = Delta.open(path, base, product)

    @property
    def places(self) -> dict[str, str]:
        """Folders of base and run, for a saved delta."""
        run = {"run": str(self.run.resolve())} if self.run else {}
        return {"base": str(self.base.folder.resolve()), **run}

    @property
    def files(self) -> list[Path]:
        """Small files of the finetuned model or adapter."""
        return self.delta.source.small_files if self.delta.source is not None else []

    def tensors(self, delta: Delta) -> LazyWeights:
        """Return the tensors of the model or adapter with a changed delta."""
        return delta.apply(self.base)

    def evaluator(self, metric: str) -> RunEvaluator:
        """Return the evaluator on the run's data.

        Raises:
            UserError: the source is not a run directory.
        """
        if self.run is None:
            raise UserError(
                f"{self.path} is not a run directory, so it has no held-out rows for evaluation.",
                fix="give the run directory",
            )
        return RunEvaluator(self.run, self.delta.kind, metric)

    def write(
        self, delta: Delta, to: str, force: bool, figures: Mapping[str, Any] | None = None
    ) -> Report:
        """Write base plus a changed delta, as a run directory if the source is one."""
        base_files = self.base.tokenizer if delta.kind == "adapter" else self.base.small_files
        record = storage.describe_delta(delta) | {"figures": dict(figures or {})}
        result = Result(
            delta.kind, self.tensors(delta), (base_files, self.files), self.run, record=record
        )
        done = write_result(result, to, force)
        return Report(to, done["bytes"], dict(figures or {}), self.next_command(to))

    def next_command(self, to: str) -> str:
        """Return the command that evaluates the written folder."""
        return f"ftcli eval {to}" if self.run else f"ftcli eval {to} --config JOB"
