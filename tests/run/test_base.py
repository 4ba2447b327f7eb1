"""A run records the content of its base, and every verb refuses a base whose files differ."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ftcli.cli.app import run as ftcli
from ftcli.core.base_model import describe_base
from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.hub import resolve
from ftcli.models.weight_files import hash_file

MINI = Path(resolve("asset:llama_mini"))
NAME = "model.layers.1.mlp.up_proj.weight"
QUICK = (
    "method=lora", "method.r=2", "model.quantization=none", "model.dtype=float32",
    "trainer.precision=fp32", "data.limit=64", "data.validation=0.1", "eval=loss",
    "trainer.max_steps=2", "trainer.batch_size=2", "trainer.save_every=1",
)  # fmt: skip


def replace_weights(folder: Path) -> None:
    """Change one value of one tensor; the size and time of the file stay the same."""
    file = folder / "model.safetensors"
    stat, tensors = file.stat(), load_file(file)
    tensors[NAME][0, 0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size


def train(base: Path | str, *more: str) -> Path:
    assert ftcli(["train", "qlora_mini", f"model.path={base}", *QUICK, *more]) == 0
    return Path("runs/qlora_mini/latest").resolve()


def read_output(capsys) -> str:
    return " ".join("".join(capsys.readouterr()).split())


def test_every_verb_refuses_a_base_that_was_replaced(work, capsys):
    base = work / "base"
    shutil.copytree(MINI, base)
    run = train(base)
    recorded = json.loads((run / "base.json").read_text())
    content = (base / "model.safetensors").read_bytes()
    assert recorded["files"]["model.safetensors"] == hashlib.sha256(content).hexdigest()
    assert ftcli(["eval", str(run)]) == 0

    replace_weights(base)
    now = hash_file(base / "model.safetensors")
    for words in (
        ["eval", str(run)],
        ["chat", str(run), "--prompt", "x"],
        ["merge", str(run), "--to", "merged"],
        ["export", str(run), "--to", "hf"],
        ["delta", "compress", str(run), "--to", "small"],
    ):
        capsys.readouterr()
        assert ftcli(words) == 2, words
        text = read_output(capsys)
        assert f"model.safetensors was {recorded['files']['model.safetensors'][:12]}" in text, text
        assert f"now {now[:12]}" in text and "is not the one that" in text
    assert not Path("merged").exists() and not Path("small").exists()

    (run / "result.json").unlink()  # as after a crash
    assert ftcli(["resume", str(run)]) == 2
    assert f"ftcli resume {run} --allow model" in read_output(capsys)
    (base / "model.safetensors").write_bytes(content)
    assert ftcli(["resume", str(run)]) == 0
    replace_weights(base)
    (run / "result.json").unlink()
    assert ftcli(["resume", str(run), "--allow", "model"]) == 0
    assert ftcli(["eval", str(run)]) == 0


def test_another_configuration_of_the_same_weights_is_another_base(work, capsys):
    base = work / "base"
    shutil.copytree(MINI, base)
    run = train(base, "eval=none")
    file = base / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"transformers_version": "9"}))
    assert ftcli(["merge", str(run), "--to", "merged"]) == 0
    file.write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert ftcli(["merge", str(run), "--to", "again"]) == 2
    assert "config.json was" in read_output(capsys)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A local cache of the Hub with two commits of owner/name; main points at the first."""
    root = tmp_path / "hub" / "models--owner--name"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(MINI, root / "snapshots" / commit)
    replace_weights(root / "snapshots" / ("b" * 40))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return root


def test_a_branch_of_the_hub_that_has_moved(work, capsys, cache):
    run = train("owner/name", "eval=none")
    assert json.loads((run / "base.json").read_text())["commit"] == "a" * 40
    (cache / "refs" / "main").write_text("b" * 40)
    assert ftcli(["merge", str(run), "--to", "merged"]) == 2
    text = read_output(capsys)
    assert (
        "(commit aaaaaaaaaaaa, now bbbbbbbbbbbb)" in text and f"model.revision={'a' * 40}" in text
    )
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("revision: null", f"revision: {'a' * 40}", 1))
    if f"revision: {'a' * 40}" not in config.read_text():
        config.write_text(
            config.read_text().replace("model:\n", f"model:\n  revision: {'a' * 40}\n")
        )
    assert ftcli(["merge", str(run), "--to", "merged"]) == 0


def test_hashes_are_kept_until_the_file_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ftcli.models.weight_files.SMALL", 0)
    file = tmp_path / "file"
    file.write_bytes(b"a" * 1000)
    first = hash_file(file)
    kept = next((tmp_path / "cache" / "hashes").iterdir())
    assert first == hashlib.sha256(b"a" * 1000).hexdigest() == kept.read_text()
    kept.write_text("kept")
    assert hash_file(file) == "kept"  # the file is not read a second time
    stat = file.stat()
    file.write_bytes(b"b" * 1000)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert hash_file(file) == hashlib.sha256(b"b" * 1000).hexdigest()


def test_new_weights_have_no_files():
    assert describe_base(CausalLMSource("asset:llama_mini", weights="random"))["files"] == {}
