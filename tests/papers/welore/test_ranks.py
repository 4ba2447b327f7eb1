"""Ranks of WeLore: one threshold on normalised singular values, the nearest factors, and where they save."""

from __future__ import annotations

import pytest
import torch

from ftcli.papers.welore.ranks import allocate_ranks, factorise, find_threshold, normalise


def planted(out: int, width: int, rank: int, noise: float = 0.0) -> torch.Tensor:
    return torch.randn(out, rank) @ torch.randn(rank, width) + noise * torch.randn(out, width)


def spectra_of(**weights: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: torch.linalg.svdvals(weight) for name, weight in weights.items()}


@pytest.fixture(scope="module")
def spectra():
    torch.manual_seed(0)
    return spectra_of(a=torch.randn(40, 60), b=planted(50, 30, 5, 0.1), c=torch.randn(20, 20) ** 3)


def test_normalised_values_lie_between_0_and_1():
    assert normalise(torch.tensor([5.0, 3.0, 1.0])).tolist() == [1, 0.5, 0]
    assert normalise(torch.tensor([2.0, 2.0])).tolist() == [1, 1]  # nothing falls off


def test_the_least_value_is_removed_by_every_threshold_and_the_largest_by_none(spectra):
    low = allocate_ranks(spectra, 0.5, tau=1e-12, min_ratio=0)
    assert low == {"a": 39, "b": 29, "c": 19}
    assert allocate_ranks(spectra, 0.5, tau=1.0, min_ratio=0) == {"a": 1, "b": 1, "c": 1}


def test_ranks_fall_as_the_threshold_rises(spectra):
    kept = [
        sum(allocate_ranks(spectra, 0.5, tau=tau / 50, min_ratio=0).values()) for tau in range(51)
    ]
    assert kept == sorted(kept, reverse=True) and kept[0] == 90 and kept[-1] == 3


@pytest.mark.parametrize("reduction", [0.05, 0.1, 0.29, 0.3, 0.5, 0.7, 0.9])
def test_the_threshold_removes_the_share_that_was_asked_for(spectra, reduction):
    kept = allocate_ranks(spectra, reduction, min_ratio=0)
    assert 90 - sum(kept.values()) == int(reduction * 90 + 1e-9)
    tau = find_threshold(list(spectra.values()), reduction)
    assert kept == allocate_ranks(spectra, 0.999, tau=tau, min_ratio=0)


def test_uniform_removes_an_equal_share_of_each(spectra):
    assert allocate_ranks(spectra, 0.3, None, "uniform", 0) == {"a": 28, "b": 21, "c": 14}


def test_a_planted_model_is_split_in_two_and_gets_the_planted_ranks():
    torch.manual_seed(1)
    found = spectra_of(
        low=planted(64, 64, 7), wide=planted(48, 96, 4), full=torch.randn(64, 64),
        other=torch.randn(96, 48),
    )  # fmt: skip
    ranks = allocate_ranks(found, 0.5, tau=1e-3)
    assert ranks == {"low": 7, "wide": 4, "full": 64, "other": 48}
    exact = allocate_ranks(found, (64 - 7 + 48 - 4) / (64 + 48 + 64 + 48))
    assert exact["full"] == 64 and exact["other"] == 48  # what they lose is below min_ratio
    assert 7 <= exact["low"] <= 10 and 4 <= exact["wide"] <= 7


def test_factors_are_the_nearest_of_their_rank():
    torch.manual_seed(2)
    weight = torch.randn(24, 40)
    values = torch.linalg.svdvals(weight.double())
    for rank in (1, 5, 12, 23):
        up, down = factorise(weight, rank)
        assert up.shape == (24, rank) and down.shape == (rank, 40)
        error = (weight - up @ down).double().norm()
        assert error.item() == pytest.approx(values[rank:].square().sum().sqrt().item(), rel=1e-5)
        assert torch.allclose(up.T @ up, down @ down.T, atol=1e-4)  # both hold half of S
    up, down = factorise(weight, 24)
    assert torch.allclose(up @ down, weight, atol=1e-5)


@pytest.mark.parametrize(
    ("out", "width", "last"), [(4096, 4096, 2047), (4096, 11008, 2985), (256, 704, 187)]
)
def test_up_to_which_rank_factors_take_less(out, width, last):
    weight = torch.empty(out, width, device="meta")
    sizes = [sum(f.numel() for f in factorise(weight, rank)) for rank in (last, last + 1)]
    assert sizes[0] < weight.numel() <= sizes[1]


def test_factors_of_the_cards_matrix_take_more_above_73_per_cent_of_its_ranks():
    """27.1 % of the ranks of a 4096 x 11008 matrix have to go before two factors are smaller."""
    weight = torch.empty(4096, 11008, device="meta")
    saves = [
        rank
        for rank in range(2900, 3100)
        if sum(f.numel() for f in factorise(weight, rank)) < weight.numel()
    ]
    assert 1 - max(saves) / 4096 == pytest.approx(0.271, abs=1e-3)
