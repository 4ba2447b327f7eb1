"""Keys and passwords: in the environment, typed, in an address; never in what a run keeps or prints."""

from __future__ import annotations

import json

import pytest

from ftcli.config import compose, load
from ftcli.config.display import show_error
from ftcli.core import errors
from ftcli.core.redaction import HIDDEN, redact, redact_tree
from ftcli.core.run_dir import RunDir
from ftcli.jobs.changes import find_changes
from ftcli.run.record import write_record
from ftcli.run.report import write_report

ENVIRONMENT = {
    "HF_TOKEN": "hf_AbCdEfGhIjKlMnOpQrSt", "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "MLFLOW_TRACKING_PASSWORD": "correct horse battery", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
}  # fmt: skip
TYPED = {
    "+logger.mine.api_key": "typed-key-1", "+data.token": "typed-token-2",
    "+model.auth.password": "typed-word-3", "+logger.mine.url": "https://me:typed-pass-4@host/x",
}  # fmt: skip
SECRETS = [*ENVIRONMENT.values(), *(v for v in TYPED.values() if "://" not in v), "typed-pass-4"]


@pytest.fixture
def secrets(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def kept(folder) -> str:
    """Everything that text files of a folder hold."""
    files = [
        f
        for f in folder.rglob("*")
        if f.suffix in (".yaml", ".json", ".jsonl", ".txt", ".md", ".log")
    ]
    return "\n".join(file.read_text() for file in files)


def of(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.mark.usefixtures("secrets")
def test_a_run_keeps_no_secret(train_tiny, monkeypatch):
    """A real run whose model revision is, by a slip, a token; and what is written to its log."""
    token = ENVIRONMENT["HF_TOKEN"]
    words = [f"{key}='{value}'" for key, value in TYPED.items()]
    phrase = " ".join(["mulberry", "quagmire"])  # in pieces: the diff of this file may be kept too
    spaced = f"+logger.mine.password={phrase}"
    monkeypatch.setattr("sys.argv", ["ftcli", "train", "qlora_mini", spaced, *words])
    folder = train_tiny(
        "run.name=kept", "eval=none", "trainer.max_steps=1", f"model.revision={token}"
    )
    run = RunDir(folder)
    state = next(folder.glob("checkpoints/step-*/state.json"))
    assert of(kept(folder)) == [] and HIDDEN in state.read_text()
    now = load(folder / "config.yaml").config
    assert not find_changes(json.loads(state.read_text())["config"], now)  # it can be resumed
    run.append_event("failed", error=f"401 for url https://x/?token={token}")
    run.append_log(
        f"Authorization: {ENVIRONMENT['WANDB_API_KEY']}\npassword={TYPED['+model.auth.password']}"
    )
    monkeypatch.setenv("HF_HOME", f"/home/{token}/hub")  # its place is kept
    write_record(run, compose("qlora_mini", [*words, spaced]))
    write_report(run)
    assert of(kept(folder)) == [] and "asset:llama_mini" in kept(folder)
    assert phrase not in kept(folder)
    assert "/home/***/hub" in kept(folder)


@pytest.mark.usefixtures("secrets")
def test_a_message_shows_no_secret(capsys):
    for secret in ENVIRONMENT.values():
        show_error(errors.UserError(f"{secret} is wrong", where=f"x {secret}", fix=f"not {secret}"))
    show_error(errors.UserError("url https://me:typed-pass-4@host/x refused"))
    assert of(capsys.readouterr().err) == []


@pytest.mark.parametrize(
    "text",
    [
        "model.tokenizer=asset:llama_mini", "max_new_tokens=80", "pad_token: <pad>", "eos_token=</s>",
        "tokens: 512", "method.r=8 key=value", "the tokenizer has token ids up to 4095", "token: null",
        "https://host/path", "data.columns.prompt=token", "secretary: Ann", "passwords_file: x",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text, monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert redact(text) == text


def test_settings_that_look_like_secrets_stay_as_they_are():
    """A run is repeated, resumed and judged from its config.yaml."""
    settings = {
        "model": {"path": "models/local-llama-3-8b-instruct"},
        "data": {"path": "org/hf_instruction_mix_v2", "prompt_template": "Password: {x}\nToken: {y}"},
        "cache": "/data/hf_models_and_checkpoints/llama", "stop_token": "<end>", "token": None, "image_token": "<image>",
    }  # fmt: skip
    assert redact_tree(settings) == settings
    for name in ("token", "neptune_api_token", "github_token", "mlflow_tracking_token"):
        assert redact_tree({name: "x1"}) == {name: HIDDEN} and redact(f"{name}=x1") == f"{name}=***"
    assert redact_tree({"hub_token": "x1", "api_key": ["y2"]}) == {
        "hub_token": HIDDEN,
        "api_key": [HIDDEN],
    }
