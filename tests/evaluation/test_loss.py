"""The held-out loss is the mean over tokens, whatever the batches, and does not change the run."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.evaluation.loss import Loss
from ftcli.run.build import open_run


@pytest.fixture(scope="module")
def run(trained_run):
    return open_run(trained_run)


def by_hand(run):
    """Token by token with transformers' own loss, one document at a time."""
    tokens = run.data.prepare("validation", run.tokenizer)
    total = count = 0.0
    for i in range(len(tokens)):
        row = tokens.row(i)
        ids, labels = (torch.tensor(row[k].tolist())[None] for k in ("input_ids", "labels"))
        with torch.no_grad():
            logits = run.model(input_ids=ids.long()).logits[0, :-1]
        wanted = labels[0, 1:].long()
        total += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        count += (wanted != -100).sum().item()
    return total / count


def test_loss_is_a_mean_over_tokens_of_all_rows(run):
    scores = Loss(batch_size=3)(run)
    assert scores["loss"] == pytest.approx(by_hand(run), rel=1e-5)
    assert scores["perplexity"] == pytest.approx(2.718281828 ** scores["loss"], rel=1e-6)
    assert Loss(batch_size=100)(run)["loss"] == pytest.approx(scores["loss"], rel=1e-6)


def test_a_limit_reads_fewer_rows(run):
    assert Loss(limit=1, batch_size=1)(run) != Loss()(run)


def test_mode_comes_back_and_no_gradient_is_kept(run):
    run.model.train()
    Loss(limit=1)(run)
    assert run.model.training and torch.is_grad_enabled()
    assert all(p.grad is None for p in run.model.parameters())
    run.model.eval()


def test_bf16_is_judged_in_bf16(run):
    exact = Loss()(run)["loss"]
    run.trainer = replace(run.trainer, precision="bf16")
    try:
        rounded = Loss()(run)["loss"]
    finally:
        run.trainer = replace(run.trainer, precision="fp32")
    assert rounded != exact and rounded == pytest.approx(exact, rel=2e-2)


def test_a_loss_too_large_for_a_perplexity_has_none(run, monkeypatch):
    from ftcli.objectives.base import Losses

    def huge(model, batch):
        return Losses(torch.full((3,), 800.0), torch.zeros(3, dtype=torch.long))

    monkeypatch.setattr(run, "objective", SimpleNamespace(held_out_losses=huge))
    assert Loss()(run) == {"loss": 800.0}


def test_a_split_that_is_not_there(run):
    with pytest.raises(UserError, match="no split 'dev'"):
        Loss(split="dev")(run)
