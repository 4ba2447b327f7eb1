"""A run goes to the hub with a card that the hub takes, and nothing secret goes with it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ftcli.core import atomic
from ftcli.core.errors import UserError
from ftcli.serving.hub import publish_run

_spec = importlib.util.spec_from_file_location("hub", Path(__file__).with_name("hub_stand_in.py"))
assert _spec and _spec.loader
stand_in = importlib.util.module_from_spec(_spec)
sys.modules["hub"] = stand_in
_spec.loader.exec_module(stand_in)

SECRET = "correct-horse-battery"


@pytest.fixture
def hub() -> Iterator[Any]:
    with stand_in.serve_hub() as served:
        yield served


@pytest.fixture
def folder(trained_run, tmp_path) -> Path:
    """A copy, which tests change."""
    return shutil.copytree(trained_run, tmp_path / "run", symlinks=True)


@pytest.fixture
def export(hub, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`ftcli export RUN --to hub --repo me/tiny` in a process of its own, which reads the address of the hub."""

    def call(run: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {
            "HF_ENDPOINT": hub.address, "HF_TOKEN": stand_in.TOKEN, "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0",
        } | variables  # fmt: skip
        command = [sys.executable, "-m", "ftcli.cli", "export", str(run), "--to", "hub"]
        return subprocess.run(
            [*command, "--repo", "me/tiny", *words], env=env, capture_output=True, text=True
        )

    return call


def test_what_was_trained_and_its_card_arrive(folder, hub, export):
    from huggingface_hub import ModelCard

    (folder / "eval").mkdir(exist_ok=True)
    atomic.write_json(folder / "eval" / "arc.json", {"step": 3, "scores": {"acc": 0.25}})
    done = export(folder, "--private")
    assert done.returncode == 0, done.stderr
    assert f"{hub.address}/me/tiny/commit/" in done.stdout
    files, here = hub.repos["me/tiny"], folder / "adapter"
    assert hub.private["me/tiny"]
    assert set(files) == {path.name for path in here.iterdir()}
    for name in set(files) - {"README.md"}:
        assert files[name] == (here / name).read_bytes(), name
    card = ModelCard(files["README.md"].decode())
    data = card.data.to_dict()
    assert data["base_model"] == "ftcli/llama_mini" and data["base_model_relation"] == "adapter"
    assert data["license"] == "apache-2.0" and data["pipeline_tag"] == "text-generation"
    scores = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    result = json.loads((folder / "result.json").read_text())
    assert scores["e2e", "loss"] == result["metrics"]["eval.loss"] and scores["arc", "acc"] == 0.25
    assert "CC BY-SA 4.0" in card.text and 'PeftModel.from_pretrained(base, "me/tiny")' in card.text


def test_a_dry_run_asks_no_one_and_shows_card_and_files(folder, hub, export):
    done = export(folder, "--dry-run", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    assert (
        "base_model: ftcli/llama_mini" in done.stdout and "adapter_model.safetensors" in done.stdout
    )
    assert "nothing was sent" in done.stdout and hub.requests == []


def test_nothing_of_this_machine_and_nothing_secret_is_in_a_request(folder, hub, export):
    typed = (
        f"ftcli train job.yaml data.path=/home/anna/w/rows.jsonl logger.wandb.api_key={SECRET}\n"
    )
    atomic.write_text(folder / "command.txt", f"{typed}# in /home/anna/w\n# HF_HOME=/home/anna/h\n")
    (folder / "adapter" / "notes.txt").write_text("mine")
    (folder / "adapter" / "training_args.bin").write_bytes(b"mine")
    done = export(folder, HOME="/home/anna")
    assert done.returncode == 0, done.stderr
    assert "not sent: notes.txt, training_args.bin" in done.stdout
    sent = b"".join(hub.repos["me/tiny"].values()) + b"".join(body for _, body in hub.requests)
    for word in ("/home/anna", SECRET, stand_in.TOKEN, "training_args"):
        assert word.encode() not in sent, word
    assert b"data.path=./rows.jsonl" in hub.repos["me/tiny"]["README.md"]


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        (
            "adapter_config.json",
            json.dumps({"task_type": "x", "auth": {"api_key": SECRET}}),
            "auth",
        ),
        ("tokenizer_config.json", json.dumps({"name": f"https://a:{SECRET}@host"}), "name"),
        ("chat_template.jinja", "{{ messages }} MINE", "chat_template"),
    ],
)
def test_a_secret_in_a_file_stops_it(folder, monkeypatch, name, text, place):
    monkeypatch.setenv("MY_SECRET", "{{ messages }} MINE")
    (folder / "adapter" / name).write_text(text)
    with pytest.raises(UserError) as error:
        publish_run(folder, "me/tiny", dry_run=True)
    assert place in str(error.value) and SECRET not in str(error.value)


@pytest.mark.slow
def test_a_merged_model_is_whole(folder, hub, export):
    assert export(folder, "--merged").returncode == 0
    files = hub.repos["me/tiny"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert b"base_model_relation: finetune" in files["README.md"]


@pytest.mark.slow
def test_weights_of_another_checkpoint(folder, hub, export, tmp_path):
    (folder / "result.json").unlink()  # as while it trains: adapter/ is that of an earlier end
    shutil.rmtree(folder / "adapter")
    assert export(folder).returncode == 0
    (tmp_path / "sent.safetensors").write_bytes(hub.repos["me/tiny"]["adapter_model.safetensors"])
    sent = load_file(tmp_path / "sent.safetensors")
    kept = load_file(folder / "checkpoints" / "last" / "adapter.safetensors")
    assert sum(t.sum() for t in sent.values()).item() == pytest.approx(
        sum(t.sum() for t in kept.values()).item(), rel=1e-5
    )


NO_RIGHT = "hf_" + "c" * 34


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        ([], {"HF_TOKEN": "hf_" + "b" * 34}, "401"),
        (["--license", "unknown-1"], {}, "license: unknown-1 is unknown"),
        pytest.param([], {"HF_TOKEN": ""}, "hf auth login", marks=pytest.mark.slow),
        pytest.param([], {"HF_TOKEN": NO_RIGHT}, "may not write to me", marks=pytest.mark.slow),
        pytest.param([], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE", marks=pytest.mark.slow),
        pytest.param(
            [], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached", marks=pytest.mark.slow
        ),
    ],
)
def test_what_the_hub_refuses_is_one_message(folder, hub, export, words, variables, said):
    hub.forbidden = NO_RIGHT
    done = export(folder, *words, **variables)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and hub.repos == {}


def test_an_adapter_on_a_folder_of_this_machine_is_refused(folder):
    config = (folder / "config.yaml").read_text()
    base = Path("ftcli/assets/models/llama_mini").resolve()
    (folder / "config.yaml").write_text(config.replace("asset:llama_mini", str(base)))
    with pytest.raises(UserError, match="--merged"):
        publish_run(folder, "me/tiny", dry_run=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "hub"], "--repo OWNER/NAME"),
        (["--to", "hub", "--repo", "mine"], "OWNER/mine"),
        (["--to", "hub", "--repo", "a/b/c"], "--repo"),
        (["--to", "hub", "--repo", "a/b", "--output", "x"], "--output"),
        (["--to", "hf", "--dry-run"], "--dry-run"),
    ],
)
def test_options_that_do_not_fit(trained_run, capsys, words, said):
    from ftcli.cli.app import run

    assert run(["export", str(trained_run), *words]) == 2
    assert said in capsys.readouterr().err
