"""`ftcli export` writes what other programs read."""

from __future__ import annotations

import json
import stat

import pytest

from ftcli.cli.app import run


def test_hf_is_a_plain_folder(trained_run, tmp_path, capsys):
    target = tmp_path / "out"
    assert run(["export", str(trained_run), "--to", "hf", "--output", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(target)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in target.iterdir()
    }


def test_an_unknown_format_lists_those_there_are(trained_run, capsys):
    assert run(["export", str(trained_run), "--to", "onnx"]) == 2
    assert "gguf" in capsys.readouterr().err


def test_without_the_converter_nothing_is_done_and_the_commands_are_given(
    trained_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", str(tmp_path))
    target = tmp_path / "model"
    assert run(["export", str(trained_run), "--to", "gguf", "--output", str(target)]) == 2
    said = capsys.readouterr().err
    assert "convert_hf_to_gguf.py" in said and "ftcli merge" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [0, 5])
def test_the_converter_gets_the_merged_model(trained_run, tmp_path, monkeypatch, capsys, status):
    tools = tmp_path / "tools"
    tools.mkdir()
    converter = tools / "convert_hf_to_gguf.py"
    converter.write_text(f'#!/bin/sh\ntest -f "$1/model.safetensors" && : > "$3"\nexit {status}\n')
    converter.chmod(converter.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    output = tmp_path / "model.gguf"
    words = ["export", str(trained_run), "--to", "gguf", "--output", str(output), "--json"]
    assert run(words) == (1 if status else 0)
    shown = capsys.readouterr()
    assert output.exists() and (tmp_path / "model-hf" / "config.json").exists()
    if status:
        assert "status 5" in shown.err
    else:
        assert json.loads(shown.out)["folder"] == str(output)
