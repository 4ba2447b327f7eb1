"""Finetuning transfer: identities, new tokens, adapters, paths between models."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftcli.core.errors import UserError
from ftcli.deltas.artefact import Artefact
from ftcli.deltas.delta import Delta
from ftcli.deltas.difference import compute_model_delta
from ftcli.papers.finetuning_transfer import transfer

BASE = "asset:llama_mini"
TOKENS = "model.embed_tokens.weight"


def model(folder, tensors, **config):
    """A model folder with the shipped Llama's configuration."""
    base = Artefact.open(BASE)
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(base.config | config))
    return Artefact.open(folder)


@pytest.fixture
def base():
    return Artefact.open(BASE)


@pytest.fixture
def new(base, tmp_path):
    """Another version of the base, in bfloat16 as it."""
    torch.manual_seed(0)
    moved = {n: base.weights[n] + 0.01 * torch.randn_like(base.weights[n]) for n in base.weights}
    return model(tmp_path / "new", moved)


def test_to_its_own_base_it_is_the_finetuned_model(full_run, base):
    transferred = transfer.transfer_delta(Delta.open(full_run), base)
    trained = load_file(full_run / "model" / "model.safetensors")
    assert all(torch.equal(transferred[n], trained[n]) for n in trained)


def test_nothing_of_the_change_is_the_target(full_run, new):
    transferred = transfer.transfer_delta(Delta.open(full_run), new, scale=0.0)
    assert all(torch.equal(transferred[n], new.weights[n].float()) for n in new.weights)


def test_it_equals_task_arithmetic_with_two_changes(full_run, base, new):
    """m_t + (m'_s - m_s) = m'_s + (m_t - m_s)."""
    transferred = transfer.transfer_delta(Delta.open(full_run), new)
    other = compute_model_delta(new, base).add_to(Artefact.open(full_run).weights)
    assert max((transferred[n] - other[n]).abs().max().item() for n in transferred) < 1e-6


def test_there_and_back_is_the_identity_to_rounding(full_run, base, new, tmp_path):
    transferred = transfer.transfer_delta(Delta.open(full_run), new)
    moved_model = model(tmp_path / "there", dict(transferred.items()))
    back = transfer.transfer_delta(compute_model_delta(moved_model, new), base)
    trained = Artefact.open(full_run).weights
    assert max((back[n] - trained[n]).abs().max().item() for n in back) < 1e-6


def test_rows_of_new_tokens_come_from_the_finetuned_model(base, new, tmp_path):
    rows = torch.randn(3, 256).bfloat16()
    grown = {n: base.weights[n] for n in base.weights}
    grown[TOKENS] = torch.cat([grown[TOKENS], rows])
    finetuned = model(tmp_path / "grown", grown, vocab_size=4099)
    transferred = transfer.transfer_delta(compute_model_delta(finetuned, base), new)
    assert transferred[TOKENS].shape == (4099, 256) and torch.equal(
        transferred[TOKENS][4096:], rows
    )
    assert transfer.find_config_changes(transferred, new) == {"vocab_size": 4099}
    assert torch.equal(transferred[TOKENS][:4096], new.weights[TOKENS])


def test_another_shape_is_refused(full_run, base, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    cut = {n: base.weights[n] for n in base.weights}
    cut[name] = cut[name][:100]
    with pytest.raises(UserError, match="up_proj"):
        transfer.transfer_delta(Delta.open(full_run), model(tmp_path / "cut", cut))
    del cut[name]
    with pytest.raises(UserError, match="no tensor"):
        transfer.transfer_delta(Delta.open(full_run), model(tmp_path / "less", cut))


def test_the_target_is_not_changed_by_it(full_run, new):
    before = {n: new.weights[n].clone() for n in new.weights}
    transfer.transfer_delta(Delta.open(full_run), new)[TOKENS]
    assert all(torch.equal(before[n], new.weights[n]) for n in before)


def test_the_tensors_of_an_adapter_are_handed_on_as_they_are(lora_run, new):
    adapter = transfer.transfer_delta(Delta.open(lora_run), new)
    stored = load_file(lora_run / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(adapter[n], stored[n]) for n in stored)


def test_a_barrier_is_what_rises_above_the_straight_line():
    assert transfer.barrier([(0.0, 1.0), (0.5, 4.0), (1.0, 3.0)]) == 2.0
    assert transfer.barrier([(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)]) == 0.0
