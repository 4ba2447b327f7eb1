"""A working folder of its own, with an empty folder of user configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file under the working folder, which is `work/` of the test's folder."""
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("FTCLI_CONFIGS", str(tmp_path / "user"))
    monkeypatch.delenv("FTCLI_TRUST", raising=False)

    def put(name: str, text: str) -> Path:
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return put
