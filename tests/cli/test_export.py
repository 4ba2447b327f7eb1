"""`ftcli export` writes what other programs read."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ftcli.cli.app import run
from ftcli.serving import gguf


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


@pytest.mark.parametrize("missing", ["conversion", "xllamacpp"])
def test_without_the_extra_nothing_is_done_and_it_is_named(
    trained_run, tmp_path, monkeypatch, capsys, missing
):
    present = gguf.find_spec

    def find(name):
        return None if name == missing else present("json")

    monkeypatch.setattr(gguf, "find_spec", find)
    for words in ([], ["--adapter"]):
        target = tmp_path / "model"
        arguments = ["export", str(trained_run), "--to", "gguf", "--output", str(target)]
        assert run([*arguments, *words]) == 2
        assert "pip install 'ftcli[gguf]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_adapter_of_other_formats_is_where_it_is(trained_run, capsys):
    assert run(["export", str(trained_run), "--to", "hf", "--adapter"]) == 2
    assert "--to gguf --adapter" in capsys.readouterr().err


@pytest.mark.slow
def test_gguf_by_the_command_that_inherits_a_safe_path(trained_run, tmp_path):
    """`ftcli` sets PYTHONSAFEPATH for what it starts; the converter must not mind."""
    pytest.importorskip("conversion", reason="pip install 'ftcli[gguf]'")
    output = tmp_path / "model.gguf"
    words = ["export", str(trained_run), "--to", "gguf", "--output", str(output), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "ftcli", *words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["folder"] == str(output) and report["bytes"] == output.stat().st_size
    assert output.read_bytes()[:4] == b"GGUF"
    assert (tmp_path / "model-hf" / "config.json").exists()
