"""Selection of entries: one threshold for all tensors, ties, and random masks."""

from __future__ import annotations

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.papers.lt_sft.selection import select_moved, select_random


@pytest.fixture
def moved():
    """Two tensors, and the same after moves of different sizes; one row has not moved."""
    torch.manual_seed(0)
    start = {"a": torch.randn(8, 5), "b": torch.randn(40)}
    trained = {"a": start["a"] + torch.randn(8, 5), "b": start["b"] + 0.1 * torch.randn(40)}
    trained["a"][0] = start["a"][0]
    return start, trained


@pytest.mark.parametrize("count", [1, 20, 60])
def test_the_largest_moves_of_all_tensors_are_selected(moved, count):
    start, trained = moved
    masks, threshold = select_moved(start, trained, count)
    moves = torch.cat([(trained[n] - start[n]).abs().flatten() for n in start])
    selected = torch.cat([masks[n].flatten() for n in start])
    assert selected.sum() == count
    assert moves[selected].min() == pytest.approx(threshold)
    assert moves[~selected].max() < threshold


def test_the_threshold_is_not_one_of_each_tensor(moved):
    masks, _ = select_moved(*moved, 20)
    assert (
        masks["a"].sum() > 15
    )  # it moved ten times as far as the other, which has as many entries


def test_entries_that_tie_are_all_selected():
    start = {"a": torch.zeros(6)}
    masks, threshold = select_moved(start, {"a": torch.tensor([3.0, 1, -1, 1, 0, 0.5])}, 2)
    assert threshold == 1
    assert masks["a"].tolist() == [True, True, True, True, False, False]


def test_more_entries_than_have_moved_are_refused(moved):
    with pytest.raises(UserError, match="has moved 75 of 80"):
        select_moved(*moved, 76)
    masks, threshold = select_moved(*moved, 75)
    assert threshold > 0
    assert not masks["a"][0].any()


def test_all_entries_can_be_selected_though_some_have_not_moved(moved):
    masks, _ = select_moved(*moved, 80)
    assert all(mask.all() for mask in masks.values())


def test_random_masks_have_exactly_as_many_entries_and_follow_the_seed(moved):
    start, _ = moved
    masks = [select_random(start, 33, seed) for seed in (0, 0, 1)]
    assert [sum(int(m.sum()) for m in each.values()) for each in masks] == [33, 33, 33]
    assert all(torch.equal(masks[0][n], masks[1][n]) for n in start)
    assert not all(torch.equal(masks[0][n], masks[2][n]) for n in start)


def test_random_masks_are_spread_over_all_tensors():
    start = {"a": torch.zeros(100, 300), "b": torch.zeros(10000)}
    masks = select_random(start, 8000, 0)
    assert masks["b"].sum().item() == pytest.approx(2000, abs=200)  # five standard deviations


@pytest.mark.parametrize("count", [0, 81])
def test_more_entries_than_there_are_is_an_error(moved, count):
    for select in (lambda: select_moved(*moved, count), lambda: select_random(moved[0], count, 0)):
        with pytest.raises(UserError, match="of 80"):
            select()
