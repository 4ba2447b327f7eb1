"""NormalFloat with quantised scales: levels, sizes, a loop over blocks, packed bytes."""

from __future__ import annotations

import pytest
import torch

from ftcli.papers.lq_lora.normal_float import (
    DTYPES,
    Format,
    PackedNormalFloat,
    compute_levels,
    quantise,
)

BITS = (2, 3, 4, 8)
#: The table of NF4 in bitsandbytes.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip


def matrix(rows=24, columns=40, seed=0):
    torch.manual_seed(seed)
    return torch.randn(rows, columns) * torch.rand(rows, 1)


def test_levels_of_4_bits_are_nf4():
    assert (compute_levels(4) - torch.tensor(NF4)).abs().max() < 2e-6


@pytest.mark.parametrize("bits", BITS)
def test_levels_ascend_from_minus_one_over_zero_to_one(bits):
    levels = compute_levels(bits)
    assert len(levels) == 2**bits and (levels.diff() > 0).all()
    assert levels[0] == -1 and levels[-1] == 1 and levels[2 ** (bits - 1) - 1] == 0


def test_stored_bits_a_weight():
    assert Format().bits_per_weight == pytest.approx(4.12695, abs=5e-6)
    assert Format(3).bits_per_weight == pytest.approx(3.12695, abs=5e-6)
    assert Format(2, 2, "bf16").bits_per_weight == pytest.approx(2.03223, abs=5e-6)
    assert Format(3).count_bits(2**20) == Format(3).bits_per_weight * 2**20
    # two blocks, the second one of one weight, and a superblock
    assert Format(3).count_bits(65) == 3 * 65 + 2 * 8 + 32


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("scale_bits", [2, 8])
@pytest.mark.parametrize("superscale", list(DTYPES))
def test_it_is_the_nearest_level_on_rounded_scales_block_by_block(bits, scale_bits, superscale):
    weight, form = matrix(), Format(bits, scale_bits, superscale, 8, 4)
    actual = quantise(weight, form).weight().flatten()
    blocks = weight.flatten().split(8)
    scales = torch.stack([block.abs().max() for block in blocks])
    least, levels = scales.min(), compute_levels(bits)
    for number, block in enumerate(blocks):
        group = scales[number // 4 * 4 : number // 4 * 4 + 4] - least
        top, most = group.max().to(DTYPES[superscale]).float(), 2**scale_bits - 1
        code = min(round((scales[number] - least).item() * most / top.item()), most)
        scale = code * top / most + least
        nearest = (block[:, None] / scale - levels).abs().argmin(1)
        assert torch.allclose(
            actual[8 * number : 8 * number + 8], levels[nearest] * scale, atol=1e-6
        )


@pytest.mark.parametrize("shape", [(24, 40), (5, 7), (1, 3), (16, 64)])
@pytest.mark.parametrize(
    "form", [Format(), Format(3, 4, "bf16", 16, 4), Format(2, 3, "fp16", 8, 2)]
)
def test_packed_bytes_give_the_same_matrix_also_where_blocks_are_partial(shape, form):
    matrix_ = quantise(matrix(*shape), form)
    packed = PackedNormalFloat()
    assert packed.is_empty
    packed.store(matrix_)
    assert packed.format == form and torch.equal(packed.weight(), matrix_.weight())
    other = PackedNormalFloat()
    other.load_state_dict(packed.state_dict())  # of a format that it did not have
    assert torch.equal(other.weight(), matrix_.weight())
    assert not any(p.requires_grad for p in other.parameters())


def test_what_is_packed_takes_the_formulas_bits():
    packed, form = PackedNormalFloat(), Format(3)
    packed.store(quantise(matrix(512, 512), form))
    constant = 4 * (1 + 7)  # minimum and header
    assert 8 * (packed.count_bytes() - constant) == form.count_bits(512 * 512)


def test_zeros_and_blocks_of_equal_scale_are_kept():
    weight = torch.zeros(4, 16)
    assert torch.equal(quantise(weight, Format(3, 8, "fp32", 8, 2)).weight(), weight)
    weight[1] = torch.tensor([1.0, -1.0]).repeat(8)
    assert torch.equal(quantise(weight, Format(3, 8, "fp32", 8, 2)).weight(), weight)


def test_formats_that_cannot_be_stored_are_refused():
    with pytest.raises(ValueError, match="no packing for 5 bits"):
        Format(5)
    with pytest.raises(ValueError, match="superscale='fp8' is unknown"):
        Format(superscale="fp8")
    with pytest.raises(ValueError, match="must be positive"):
        Format(block=0)
