"""Entropy of the predictions and the covariance of class logits, by their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.objectives.base import Losses
from ftcli.papers.ba_lora.diversity import Diversity, entropy, off_diagonal_covariance
from tests.penalties.runs import build, fitted


def losses(logits: torch.Tensor) -> Losses:
    return Losses(logits, logits, hidden=logits, head=lambda hidden: hidden)


def test_uniform_predictions_give_minus_log_v():
    penalty = Diversity()(None, {}, losses(torch.zeros(5, 32)))
    assert penalty.item() == pytest.approx(-math.log(32), rel=1e-6)
    sure = torch.tensor([[1e4, 0.0, 0.0]])
    assert entropy(sure).item() == 0 and torch.isfinite(entropy(sure)).all()


def test_it_is_the_mean_over_tokens_in_chunks_too():
    logits = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    expected = -torch.distributions.Categorical(logits=logits).entropy().mean()
    for size in (3, 1024):
        h = logits.clone().requires_grad_()
        penalty = Diversity(chunk_size=size)(None, {}, losses(h))
        assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
        penalty.backward()
        assert h.grad.abs().max() > 0


def test_two_identical_columns_of_variance_v_give_v_squared():
    column = torch.tensor([1.0, 2.0, 4.0, -1.0])
    logits = torch.stack([column, column], 1)
    expected = column.var() ** 2
    assert off_diagonal_covariance(logits).item() == pytest.approx(expected.item(), rel=1e-6)
    penalty = Diversity(form="classes")(None, {}, losses(logits))
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-6)


def test_uncorrelated_columns_and_single_rows_give_zero():
    apart = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert off_diagonal_covariance(apart).item() == 0
    assert off_diagonal_covariance(torch.ones(1, 3)).item() == 0


def test_against_torchs_covariance():
    z = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    c = torch.cov(z.T)
    expected = (c.square().sum() - c.diagonal().square().sum()) / 5
    assert off_diagonal_covariance(z).item() == pytest.approx(expected.item(), rel=1e-4)


def test_micro_batches_of_one_example_are_refused_in_class_form():
    run = build(
        "method=lora", "penalty=diversity", "penalty.diversity.form=classes", "trainer.batch_size=1"
    )
    with pytest.raises(UserError, match="covariance of one example"):
        run.penalties["diversity"].setup(run)


def test_training_with_it_raises_entropy():
    shared = [
        "method=lora",
        "method.r=4",
        "penalty=diversity",
        "trainer.max_steps=6",
        "optimizer.lr=1e-2",
    ]

    def after(weight):
        run = fitted(*shared, f"penalty.diversity.weight={weight}")
        run.model.eval()
        with torch.no_grad():
            out = run.objective(run.model, run.build_loader().batch(range(16)))
            return entropy(out.head(out.hidden)).mean().item()

    assert after(2.0) > after(0.0) + 0.1
