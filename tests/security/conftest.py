"""An attacker's folder, and the file that exists only if his code has run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcli.cli.app import run


class Attack:
    """What a stranger wants: the file `marker`, by a shell line or by a Python file of his."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.marker = folder, folder / "MARKER"
        self.shell = f"touch {self.marker}"
        self.code = f"open({str(self.marker)!r}, 'w').close()\n"

    @property
    def won(self) -> bool:
        """Whether his code has run."""
        return self.marker.exists()

    def module(self, name: str) -> None:
        """A module that wins when it is imported, and a class that wins when it is made."""
        text = f"class Evil:\n    def __init__(self, *a, **k):\n        {self.code}"
        (self.folder / f"{name}.py").write_text(text + self.code)


@pytest.fixture
def attack(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attack:
    """His folder is the working folder, and Python finds modules there."""
    monkeypatch.setattr(sys, "path", [str(work), *sys.path])
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))
    return Attack(work)


@pytest.fixture
def ftcli(attack: Attack, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`ftcli("train", "job.yaml")`: exit status, and all that was printed."""

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        status = run(words)
        seen = capsys.readouterr()
        return status, seen.out + seen.err

    return call
