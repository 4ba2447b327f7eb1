"""Findings on where the weights of a model are."""

import shutil

import pytest
from huggingface_hub.errors import GatedRepoError

from ftcli.core.errors import UserError
from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.hub import resolve
from ftcli.planning.model_findings import check_statistics, check_weights
from tests.planning.jobs import PLAIN, build_job


def test_a_shipped_model_is_here():
    assert check_weights(CausalLMSource("asset:llama_mini")).status == "ok"


def test_new_weights_need_no_files(monkeypatch):
    monkeypatch.setattr("ftcli.models.hub.ask_hub", lambda *_: pytest.fail("the hub was asked"))
    finding = check_weights(CausalLMSource("owner/name", weights="random"))
    assert finding.status == "ok" and "new weights" in finding.text


def test_a_folder_without_weights_fails(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    finding = check_weights(CausalLMSource(str(tmp_path)))
    assert finding.status == "fail" and "safetensors" in finding.text


def test_a_model_in_the_cache_is_here(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(f"{resolve('asset:llama_mini')}/{name}", snapshot / name)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert check_weights(CausalLMSource("owner/name")).status == "ok"


@pytest.mark.parametrize(
    "answer, status", [(None, "warn"), ("unreachable", "warn"), ("gated", "fail")]
)
def test_what_the_hub_says_of_a_model_that_is_not_here(tmp_path, monkeypatch, answer, status):
    def ask(path, revision=None):
        if answer:
            raise UserError(answer) from refusals[answer]

    refused = GatedRepoError.__new__(GatedRepoError)  # its constructor wants a response
    refusals = {"gated": refused, "unreachable": OSError("no route")}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("ftcli.models.hub.ask_hub", ask)
    assert check_weights(CausalLMSource("owner/name")).status == status


@pytest.mark.parametrize(
    "method, warned", [("full", True), ("lora", True), ("full_with_statistics", False)]
)
def test_statistics_that_checkpoints_do_not_hold_are_named(method, warned):
    targets = ["method.target_modules=[convolution]"] if method == "lora" else []
    meta_run = build_job(f"method={method}", *targets, job="fpf")
    findings = list(check_statistics(meta_run.model, meta_run.method))
    assert [finding.status for finding in findings] == ["warn"] * warned
    assert all("of 9 BatchNorm layers" in finding.text for finding in findings)


def test_a_model_without_statistics_needs_none():
    meta_run = build_job(*PLAIN)
    assert not list(check_statistics(meta_run.model, meta_run.method))
