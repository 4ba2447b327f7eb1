"""The buffer is a uniform sample of what was seen, and goes on after a resume as if never stopped."""

from __future__ import annotations

import numpy as np
import torch

from ftcli.papers.fpf.reservoir import Reservoir

CHI_SQUARE = 51.18  # of 24 degrees of freedom: a larger one has a probability of 0.001


def test_every_row_is_held_with_equal_probability():
    size, rows, repeats = 5, 25, 4000
    held = np.zeros(rows)
    for seed in range(repeats):
        buffer = Reservoir(size, seed)
        buffer.offer(range(rows))
        assert len(set(buffer.rows)) == size
        held[buffer.rows] += 1
    expected = repeats * size / rows
    # a row is held or not, and exactly `size` of them are: the variance is that of sampling without replacement
    statistic = ((held - expected) ** 2 / expected).sum() * (rows - 1) / (rows - size)
    assert statistic < CHI_SQUARE


def test_a_short_stream_is_held_whole():
    buffer = Reservoir(9, 0)
    buffer.offer([4, 2, 7])
    assert buffer.rows == [4, 2, 7]
    assert sorted(buffer.draw(5, 0)) == [2, 4, 7]
    assert Reservoir(9, 0).draw(5, 0) == []


def test_logits_are_those_of_held_rows():
    buffer = Reservoir(2, 0)
    buffer.offer([0, 1])
    buffer.store_logits([0, 1, 2], torch.arange(6.0).reshape(3, 2))
    assert buffer.logits.keys() == {0, 1}
    buffer.offer(range(2, 50))
    assert buffer.logits.keys() <= set(buffer.rows)
    buffer.store_logits(buffer.rows, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert buffer.stack_logits(buffer.rows[::-1]).tolist() == [[3.0, 4.0], [1.0, 2.0]]


def test_goes_on_after_a_resume():
    whole, first, second = (Reservoir(4, 1) for _ in range(3))
    whole.offer(range(40))
    first.offer(range(17))
    second.load_state_dict(first.state_dict())
    second.offer(range(17, 40))
    assert second.rows == whole.rows and second.draw(3, 8) == whole.draw(3, 8)
