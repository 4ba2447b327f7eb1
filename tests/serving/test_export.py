"""Where an export is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.serving.export import locate_target


@pytest.mark.parametrize(
    ("form", "output", "expected"),
    [
        ("hf", None, "RUN/export/hf"),
        ("gguf", None, "RUN/export/gguf/model"),  # model.gguf and model-hf
        ("gguf", "here/mine.gguf", "here/mine"),
        ("hf", "here/v1.2", "here/v1.2"),
    ],
)
def test_formats_have_folders_of_their_own(form, output, expected):
    assert locate_target("RUN", form, output) == Path(expected)
