"""Shifted sparse attention against dense attention under an explicit mask, a leak test, its cost."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ftcli.models.attention_kernels import AttentionSettings
from ftcli.papers.longlora.head_groups import build_mask, compute_group, cut_segments, group_heads

N, H, D = 32, 4, 16
CAUSAL = AttentionSettings()


def draw(lengths, heads=H):
    torch.manual_seed(0)
    return [torch.randn(sum(lengths), heads, D) for _ in range(3)]


def dense(states, segments):
    """Attention [T, H, D] of one document under a mask written out pair by pair, head by head."""
    length, heads = states[0].shape[:2]
    mask = torch.zeros(heads, length, length, dtype=torch.bool)
    for head in range(heads):
        begin = 0
        for size in segments[head >= heads // 2]:
            for i in range(begin, begin + size):
                mask[head, i, begin : i + 1] = True
            begin += size
    q, k, v = (x.transpose(0, 1) for x in states)
    return scaled_dot_product_attention(q, k, v, mask).transpose(0, 1)


def test_segments_are_those_of_the_paper():
    assert cut_segments(32, 8, False) == [8, 8, 8, 8]
    assert cut_segments(32, 8, True) == [4, 8, 8, 8, 4]
    assert compute_group(32, 0.25) == 8


@pytest.mark.parametrize("length", range(1, 40))
@pytest.mark.parametrize("shifted", [True, False])
def test_segments_of_any_length_add_up(length, shifted):
    segments = cut_segments(length, compute_group(length, 0.25), shifted)
    assert sum(segments) == length and min(segments) > 0
    assert max(segments) == compute_group(length, 0.25) or length <= 2


@pytest.mark.parametrize("heads", [4, 3, 1])
def test_it_is_dense_attention_under_a_mask_for_each_head(heads):
    states = draw([N], heads)
    out = group_heads([N], 0.25, True).attend(states, CAUSAL)
    expected = dense(states, ([8, 8, 8, 8], [4, 8, 8, 8, 4]))
    assert (out - expected).abs().max() < 1e-6


def test_documents_of_a_packed_row_are_grouped_each_by_its_own_length():
    lengths = [32, 20, 7]
    states = draw(lengths)
    out = group_heads(lengths, 0.25, True).attend(states, CAUSAL)
    segments = [
        ([8] * 4, [4, 8, 8, 8, 4]),
        ([5] * 4, [2, 5, 5, 5, 3]),
        ([2, 2, 2, 1], [1, 2, 2, 2]),
    ]
    parts = zip(*(x.split(lengths) for x in states), strict=True)
    expected = [dense(part, cut) for part, cut in zip(parts, segments, strict=True)]
    assert (out - torch.cat(expected)).abs().max() < 1e-6


def test_one_group_without_a_shift_is_full_attention():
    states = draw([N])
    out = group_heads([N], 1.0, False).attend(states, CAUSAL)
    assert (out - dense(states, ([N], [N]))).abs().max() < 1e-6


def rolled(states, group):
    """The form that rolls half of the heads and masks causally inside each group of the rolled row."""
    half = states[0].shape[1] // 2
    parts = [torch.cat([x[:, :half], x[:, half:].roll(-(group // 2), 0)], 1) for x in states]
    folded = [x.unflatten(0, (-1, group)).transpose(1, 2) for x in parts]
    out = scaled_dot_product_attention(*folded, is_causal=True).transpose(1, 2).flatten(0, 1)
    return torch.cat([out[:, :half], out[:, half:].roll(group // 2, 0)], 1)


def change_before_the_end(attend):
    """Largest change of outputs before the last token when its key and value change."""
    states = draw([N])
    other = [x.clone() for x in states]
    other[1][-1] += 1
    other[2][-1] += 1
    return (attend(states) - attend(other))[:-1].abs().max().item()


def test_the_end_of_a_row_does_not_reach_its_beginning():
    layout = group_heads([N], 0.25, True)
    assert change_before_the_end(lambda states: layout.attend(states, CAUSAL)) == 0
    assert change_before_the_end(lambda states: rolled(states, 8)) > 0.05  # the form that leaks


def test_the_rolled_form_differs_in_the_first_half_group_of_the_shifted_heads_alone():
    states = draw([N])
    difference = (rolled(states, 8) - group_heads([N], 0.25, True).attend(states, CAUSAL)).abs()
    assert difference[:4, 2:].max() > 0.05
    difference[:4, 2:] = 0
    assert difference.max() < 1e-6


def test_the_mask_of_padded_rows_is_that_of_the_segments():
    lengths = [32, 20]
    real = torch.arange(32)[None] < torch.tensor(lengths)[:, None]
    mask = build_mask(real, H, 0.25, True)
    for row, length in enumerate(lengths):
        states = draw([length])
        q, k, v = (x.transpose(0, 1) for x in states)
        out = scaled_dot_product_attention(q, k, v, mask[row, :, :length, :length])
        expected = group_heads([length], 0.25, True).attend(states, CAUSAL)
        assert (out.transpose(0, 1) - expected).abs().max() < 1e-6
    assert mask.any(-1).all()  # no query without a key, padding included


def test_scores_are_a_quarter_of_full_attention():
    def pairs(segments):
        return sum(n * n for n in segments)

    assert pairs(cut_segments(N, 8, False)) * 4 == N * N
    assert pairs(cut_segments(N, 8, True)) == 3.5 * 8 * 8  # the two half groups save another eighth
