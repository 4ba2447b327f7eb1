"""A fixture that writes files into the working folder of a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[[str, str], Path]


@pytest.fixture
def write(work: Path) -> Write:
    """Write a file under the working folder, which is `work/` of the test's folder."""

    def put(name: str, text: str) -> Path:
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return put
