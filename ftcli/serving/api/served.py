"""The models of a server: runs with their names; runs with LoRA on one base share it in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.core.run_dir import STAMP, RunDir
from ftcli.models.decoding import build_generation_config, evaluation_mode
from ftcli.run.build import open_run
from ftcli.serving.api.joining_check import can_join
from ftcli.serving.api.shared_base import add_adapter, can_share_base
from ftcli.serving.chat import Chat

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig

    from ftcli.core.run import Run


@dataclass
class Served:
    """A run with the name that requests choose it by.

    Attributes:
        name: name of the model.
        chat: renders prompts as in training.
        adapter: name of its adapter in a model that several runs share; None for a model of its own.
    """

    name: str
    chat: Chat
    adapter: str | None = None

    @property
    def run(self) -> Run:
        """The run."""
        return self.chat.run

    @property
    def device(self) -> torch.device:
        """Device of the model, on which prompts are placed."""
        return self.run.model.device

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.chat.context

    @contextmanager
    def active(self) -> Iterator[Any]:
        """Yield the model with this run's weights, ready to generate."""
        if self.adapter is not None:
            self.run.model.set_adapter(self.adapter)
        with evaluation_mode(self.run) as model:
            yield model

    @cached_property
    def settings(self) -> GenerationConfig:
        """Greedy decoding by the rules of `ftcli chat`."""
        return build_generation_config(self.run.tokenizer, self.run.model, 1)


def open_models(paths: Sequence[str | Path], checkpoint: str = "last") -> list[Served]:
    """Open runs for serving, in the order of their paths.

    Raises:
        UserError: a folder is not a run, is named twice, or its model writes no text, or none that follows its own
            probabilities.
    """
    folders = [RunDir.open(path).path for path in paths]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise UserError(f"{twice} is named twice.", fix="name each run once")
    models: list[Served] = []
    for folder, name in zip(folders, name_runs(folders), strict=True):
        models.append(_open_model(folder, name, checkpoint, models))
    for served in models:
        with served.active() as model:
            can_join(model)  # measured now, not while the first request waits
    return models


def _open_model(folder: Path, name: str, checkpoint: str, others: Sequence[Served]) -> Served:
    host = next((other for other in others if can_share_base(other.run, folder)), None)
    if host is None:
        run = open_run(folder, checkpoint)
        if not callable(getattr(run.model, "generate", None)):
            raise UserError("the model of this run writes no text.", str(folder), "ftcli eval RUN")
        return Served(name, Chat(run))
    adapter = f"run{len(others)}"
    run = add_adapter(host.run, folder, adapter, checkpoint)
    host.adapter = host.adapter or "default"
    return Served(name, Chat(run), adapter)


def name_runs(folders: Sequence[Path]) -> list[str]:
    """Return a name for each run: that of its job, with the time where several have the same."""
    short = [f.parent.name if STAMP.fullmatch(f.name) else f.name for f in folders]
    pairs = zip(folders, short, strict=True)
    names = [n if short.count(n) == 1 else f"{f.parent.name}/{f.name}" for f, n in pairs]
    return [n if names.count(n) == 1 else str(f) for f, n in zip(folders, names, strict=True)]
