"""A source of `ftcli delta`: its change, what it began from, and the run that can judge it."""

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
        base: what it was trained from, where it does not say so itself.
        product: of a LoRA, the change of the base's matrices.

    Raises:
        UserError: there is nothing of that kind, or no base.
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
        self.delta = Delta.of(path, base, product)

    @property
    def places(self) -> dict[str, str]:
        """Where base and run lie, for a saved delta."""
        run = {"run": str(self.run.resolve())} if self.run else {}
        return {"base": str(self.base.folder.resolve()), **run}

    @property
    def files(self) -> list[Path]:
        """The small files of what was finetuned."""
        return self.delta.source.small_files if self.delta.source is not None else []

    def tensors(self, delta: Delta) -> LazyWeights:
        """What the model or adapter is with a changed delta."""
        return delta.apply(self.base)

    def evaluator(self, metric: str) -> RunEvaluator:
        """The run as a judge.

        Raises:
            UserError: the source is no run.
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
        """Base plus a changed delta, as a run if this is one."""
        base_files = self.base.tokenizer if delta.kind == "adapter" else self.base.small_files
        record = storage.describe_delta(delta) | {"figures": dict(figures or {})}
        result = Result(
            delta.kind, self.tensors(delta), (base_files, self.files), self.run, record=record
        )
        done = write_result(result, to, force)
        return Report(to, done["bytes"], dict(figures or {}), self.next_command(to))

    def next_command(self, to: str) -> str:
        """The command that judges what was written."""
        return f"ftcli eval {to}" if self.run else f"ftcli eval {to} --config JOB"
