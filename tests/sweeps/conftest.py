"""Sweeps whose trials are trained for real, and sweeps whose trials a stand-in answers at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ftcli.config import load
from ftcli.sweeps import composition
from ftcli.sweeps.launchers.base import Launcher
from ftcli.sweeps.plan import Plan

TINY = [
    "model.dtype=float32", "trainer.precision=fp32", "data.limit=24", "data.validation=0.2",
    "trainer.max_steps=2", "trainer.batch_size=2", "trainer.log_every=1", "trainer.eval_every=1",
    "trainer.save_every=1", "~eval.generation", "method.r=2",
]  # fmt: skip


@dataclass
class Answered:
    """A worker that does one step of its run at each look, and obeys STOP as a run does."""

    folder: Path
    scores: list[float] | str
    done: int = 0
    stopped: str = ""

    def poll(self) -> int | None:
        if isinstance(self.scores, str):
            (self.folder / "worker.log").write_text(f"noise\n{self.scores}\n")
            return 1
        if (self.folder / "STOP").exists():
            self.stopped = "STOP"
        if self.stopped or self.done == len(self.scores):
            self._write(f"stopped by {self.stopped}" if self.stopped else "finished")
            return 0
        self.done += 1
        with open(self.folder / "metrics.jsonl", "a") as stream:
            row = {"step": self.done, "eval.loss": self.scores[self.done - 1]}
            stream.write(json.dumps(row) + "\n")
        return None

    def _write(self, status: str) -> None:
        after = {"eval.loss": self.scores[-1]} if status == "finished" else {}
        result = {"status": status, "step": self.done, "seconds": 1.5, "metrics": after}
        (self.folder / "result.json").write_text(json.dumps(result))
        (self.folder / "report.md").touch()

    def stop(self) -> None:
        self.stopped = "SIGTERM"

    def kill(self) -> None:
        self.stop()


@dataclass
class Answers(Launcher):
    """Answers trials by a function of their config: scores step by step, or an error's text."""

    answer: Callable[[dict[str, Any]], list[float] | str]
    started: list[str] = field(default_factory=list)
    jobs = 2

    def start(self, folder: Path, slot: int) -> Answered:
        assert (folder / "config.yaml").exists() and slot < 2
        self.started.append(folder.name)
        return Answered(folder, self.answer(load(folder / "config.yaml").config))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answers]:
    """Let a function answer all trials of this test."""

    def use(answer: Callable[[dict[str, Any]], list[float] | str]) -> Answers:
        launcher = Answers(answer)
        monkeypatch.setattr(composition, "build_launcher", lambda *words: launcher)
        monkeypatch.setattr("ftcli.sweeps.runner.PAUSE", 0.0)
        return launcher

    return use


@pytest.fixture
def plan() -> Callable[..., Plan]:
    """A plan over the packaged job at its smallest."""

    def make(*words: str, **options: Any) -> Plan:
        return Plan("qlora_mini", [*TINY, *words], **options)

    return make
