"""The errors against a random prefix: a teacher is what it says, both ratios are those of one seed."""

from __future__ import annotations

import pytest
import torch

from ftcli.papers.ntk_attention.measures import Teacher, ntk_fit_over_prefix, ntk_long_over_short


@pytest.fixture(autouse=True)
def seed(monkeypatch):
    monkeypatch.setattr("ftcli.reproduce.probe.seed_of", lambda run: 3)


def test_a_teacher_attends_to_its_prefix_too():
    teacher = Teacher(torch.Generator().manual_seed(0), width=8, tokens=6, prefix=3, queries=5)
    keys = torch.cat([teacher.prefix_keys, teacher.keys])
    weights = (teacher.queries @ keys.T / 8**0.5).softmax(-1)
    expected = weights @ torch.cat([teacher.prefix_values, teacher.values])
    assert (teacher.outputs - expected).abs().max() < 1e-6
    none = teacher.attend_ntk(torch.zeros(8), torch.zeros(8, 8))
    assert (none - teacher.attend_prefix(keys[:0], keys[:0])).abs().max() < 1e-6


def test_ratios_of_errors_repeat(tmp_path):
    long = ntk_long_over_short(tmp_path)
    assert 0 < long < 1 and ntk_long_over_short(tmp_path) == long
    assert 0 < ntk_fit_over_prefix(tmp_path) < 1
