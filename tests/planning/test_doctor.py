"""Findings of the doctor, also on a machine with something wrong."""

import pytest

from ftcli.planning import doctor


def of(findings):
    return {finding.name: finding for finding in findings}


def test_every_package_is_named_with_its_version():
    import torch

    finding = of(doctor.check_packages())["packages"]
    assert finding.status == "ok" and f"torch {torch.__version__}" in finding.text


def test_a_wrong_version_and_a_missing_package_are_found(monkeypatch):
    versions = {"torch": "1.0", "peft": None}
    real = doctor._installed_version
    monkeypatch.setattr(doctor, "_installed_version", lambda name: versions.get(name, real(name)) if name in
                        versions else real(name))  # fmt: skip
    finding = of(doctor.check_packages())["packages"]
    assert finding.status == "warn"
    assert "torch 1.0 (wanted" in finding.text and "peft is missing" in finding.text


def test_a_missing_extra_names_the_command(monkeypatch):
    monkeypatch.setattr(
        doctor, "_installed_version", lambda name: None if name == "wandb" else "99"
    )
    finding = [
        f for f in doctor.check_packages() if f.name == "extra" and f.text.startswith("wandb")
    ]
    assert "pip install 'ftcli[wandb]'" in finding[0].text


def test_the_token_is_never_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_a_user")
    assert doctor.check_hub().text.startswith("a token is set")
    assert "secret" not in doctor.check_hub().text


def test_four_bit_layers_pass_gradients_here():
    (finding,) = doctor.check_four_bit()
    assert finding.status == "ok"


@pytest.mark.skipif("avx512_bf16" not in doctor.cpu_flags(), reason="the CPU has no AVX512-BF16")
def test_a_loader_without_its_guard_is_found_out(monkeypatch):
    monkeypatch.setattr("ftcli.models.causal_lm.disable_cpu_inference_path", lambda model: None)
    (finding,) = doctor.check_four_bit()
    assert finding.status == "warn"


def test_a_folder_that_cannot_be_written_is_found(monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert all(finding.status == "warn" for finding in doctor.check_disk())
