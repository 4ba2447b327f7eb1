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
def ftcli(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """`ftcli("show", "job.yaml")` in the working folder."""
    from ftcli.cli.app import run

    monkeypatch.delenv("FTCLI_QUIET", raising=False)

    def call(*words: str) -> Ended:
        capsys.readouterr()
        status = run(words)
        out, err = capsys.readouterr()
        return Ended(status, out, err)

    return call
