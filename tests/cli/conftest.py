"""A working folder of its own, and the command run in this process as the shell would run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Ended:
    """What one command line left: its exit status, stdout and stderr."""

    status: int
    out: str
    err: str


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and an empty folder of user configs."""
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FTCLI_CONFIGS", str(tmp_path / "user"))
    for name in ("FTCLI_DEBUG", "FTCLI_QUIET", "FTCLI_TRUST"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def ftcli(work: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """`ftcli("show", "job.yaml")` in the working folder."""
    from ftcli.cli.app import run

    def call(*words: str) -> Ended:
        capsys.readouterr()
        status = run(words)
        out, err = capsys.readouterr()
        return Ended(status, out, err)

    return call
