"""The share of the largest singular values: bounds, gradients where values meet, the rows that it selects."""

from __future__ import annotations

import pytest
import torch

from ftcli.core.callback import State
from ftcli.objectives.base import Losses
from ftcli.papers.ba_lora.spectrum import Spectrum, top_mass
from tests.penalties.runs import fitted, furthest, start, step_loss


def of_rank(rank: int, rows: int = 20, columns: int = 30) -> torch.Tensor:
    g = torch.Generator().manual_seed(rank)
    return torch.randn(rows, rank, generator=g) @ torch.randn(rank, columns, generator=g)


def losses(logits: torch.Tensor) -> Losses:
    return Losses(logits, logits, hidden=logits, head=lambda hidden: hidden)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_minus_one_where_k_reaches_the_rank(rank):
    assert top_mass(of_rank(rank), 3).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("rank", [4, 8, 20])
def test_within_its_bounds(rank):
    penalty = Spectrum()(None, {"indices": [0]}, losses(of_rank(rank))).item()
    assert -1 < penalty <= -3 / rank


def test_equal_singular_values_reach_the_upper_bound_with_finite_gradients():
    z = (2.0 * torch.eye(6, 9)).requires_grad_()
    penalty = Spectrum(k=2)(None, {"indices": [0]}, losses(z))
    assert penalty.item() == pytest.approx(-2 / 6, abs=1e-6)
    penalty.backward()
    assert torch.isfinite(z.grad).all() and z.grad.abs().max() > 0


def test_zero_logits_are_no_division_by_zero():
    z = torch.zeros(4, 5, requires_grad=True)
    penalty = Spectrum()(None, {"indices": [0]}, losses(z))
    penalty.backward()
    assert penalty.item() == 0 and torch.isfinite(z.grad).all()


def test_descending_it_raises_the_share():
    z = of_rank(8).requires_grad_()
    before = top_mass(z, 3)
    before.backward()
    assert top_mass(z.detach() + 0.1 * z.grad / z.grad.norm(), 3) > before


def test_rows_are_a_subset_that_depends_on_seed_step_and_batch_alone():
    penalty = Spectrum(svd_positions=5)

    def select(step, rows):
        penalty.before_step(State(None, None, 10, step=step))
        return penalty._select_rows(40, rows).tolist()

    first = select(0, [3, 8])
    assert len(set(first)) == 5 and first == sorted(first) == select(0, [3, 8])
    assert first != select(1, [3, 8]) and first != select(0, [4, 8])
    assert penalty._select_rows(5, [0]).tolist() == [0, 1, 2, 3, 4]


def test_asking_twice_within_a_step_gives_the_same_figure():
    """An optimizer without gradients asks for the loss several times in a step."""
    run, batches = start("method=lora", "method.r=4", "penalty=spectrum",
                         "penalty.spectrum.svd_positions=6", "penalty.spectrum.weight=1")  # fmt: skip
    run.model.eval()
    loss = step_loss(run, batches)
    assert torch.equal(loss.total(), loss.total())


def test_it_trains_in_bfloat16_and_changes_the_step():
    shared = ["method=lora", "method.r=4", "trainer.precision=bf16", "penalty=spectrum"]
    runs = [fitted(*shared, f"penalty.spectrum.weight={w}") for w in (0, 1)]
    assert 0 < furthest(*runs) < 1
