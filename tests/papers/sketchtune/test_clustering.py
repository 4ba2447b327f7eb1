"""Weighted k-means of many rows: fixed points of its two steps, planted clusters, independent rows."""

from __future__ import annotations

import pytest
import torch

from ftcli.papers.sketchtune import clustering
from ftcli.papers.sketchtune.clustering import cluster_rows


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def error_of(values, weights, centres):
    distance = (values[:, :, None] - centres[:, None, :]).square().amin(2)
    return (weights * distance).sum(1)


@pytest.mark.parametrize("count", [4, 8, 16])
def test_centres_are_the_weighted_means_of_what_is_nearest_to_them(count):
    torch.manual_seed(0)
    values, weights = torch.randn(6, 90) ** 3, torch.rand(6, 90) ** 4 + 1e-3
    centres = cluster_rows(values, weights, count, seeded())
    assert centres.shape == (6, count) and torch.equal(centres, centres.sort(1).values)
    nearest = (values[:, :, None] - centres[:, None, :]).abs().argmin(2)
    for row in range(6):
        for t in nearest[row].unique():
            at = nearest[row] == t
            mean = (weights[row, at] * values[row, at]).sum() / weights[row, at].sum()
            assert centres[row, t].item() == pytest.approx(mean.item(), abs=1e-5)


@pytest.mark.parametrize("count", [8, 16])
def test_the_error_is_far_below_that_of_an_even_grid(count):
    torch.manual_seed(1)
    values, weights = torch.randn(8, 300) ** 3, torch.rand(8, 300)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    grid = low + (high - low) * torch.linspace(0, 1, count)
    found = cluster_rows(values, weights, count, seeded())
    assert (error_of(values, weights, found) < 0.6 * error_of(values, weights, grid)).all()


def test_planted_clusters_are_found_and_weights_pull_their_centres():
    values = torch.tensor([[0.0, 1.0, 10.0, 11.0, 20.0, 23.0]])
    weights = torch.tensor([[1.0, 3.0, 1.0, 1.0, 2.0, 1.0]])
    found = cluster_rows(values, weights, 3, seeded())
    assert torch.allclose(found, torch.tensor([[0.75, 10.5, 21.0]]))


def test_rows_do_not_depend_on_each_other_or_on_their_order(monkeypatch):
    torch.manual_seed(2)
    values, weights = torch.randn(7, 50), torch.rand(7, 50)
    whole, order = cluster_rows(values, weights, 8), torch.randperm(50)
    assert torch.allclose(cluster_rows(values[:, order], weights[:, order], 8), whole, atol=1e-6)
    monkeypatch.setattr(clustering, "CHUNK", 100)  # two rows at a time
    assert torch.equal(cluster_rows(values, weights, 8), whole)


def test_as_many_centres_as_distinct_values_are_those_values():
    values = torch.tensor([[3.0, -1.0, 3.0, 0.5] * 4, [7.0, 8.0, 9.0, 10.0] * 4])
    for count in (4, 16):
        found = cluster_rows(values, torch.ones(2, 16), count, seeded(3))
        assert error_of(values, torch.ones(2, 16), found).max() < 1e-10


def test_a_row_of_equal_values_has_them_as_every_centre():
    found = cluster_rows(torch.full((2, 9), 0.25), torch.ones(2, 9), 16, seeded())
    assert torch.equal(found, torch.full((2, 16), 0.25))
