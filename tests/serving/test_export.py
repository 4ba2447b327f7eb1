"""Where an export is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.core.errors import UserError
from ftcli.serving.export import export_run, locate_target, refuse_written


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


def test_an_earlier_export_is_not_written_over_and_the_option_to_change_is_named(tmp_path):
    refuse_written(tmp_path)  # empty
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError) as refused:
        refuse_written(tmp_path)
    assert refused.value.where == "--output"
    assert "--output" in refused.value.fix


@pytest.mark.parametrize(
    ("adapter", "name"), [(False, "m.gguf"), (True, "m-base.gguf"), (True, "m-lora.gguf")]
)
def test_a_gguf_file_whose_folder_is_gone_is_not_written_over(tmp_path, monkeypatch, adapter, name):
    monkeypatch.setattr("ftcli.serving.gguf.require_converter", lambda: None)
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"{name} exists already"):
        export_run("RUN", "gguf", tmp_path / "m.gguf", adapter=adapter)
