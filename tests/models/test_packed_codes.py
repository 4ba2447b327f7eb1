"""Codes in bytes: exact round trips, and groups of a row."""

from __future__ import annotations

import pytest
import torch

from ftcli.models.packed_codes import PACKS, group_count, pack, packed_width, unpack

BITS = sorted(PACKS)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width", [1, 7, 8, 37, 64])
def test_packing_gives_back_every_code(bits, width):
    codes = torch.randint(2**bits, (3, 5, width), generator=torch.Generator().manual_seed(width))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (3, 5, packed_width(width, bits))
    assert torch.equal(unpack(packed, bits, width), codes.to(torch.uint8))
    assert torch.equal(unpack(packed.view(torch.int8), bits, width), codes.to(torch.uint8))


@pytest.mark.parametrize("bits", BITS)
def test_every_code_is_kept_at_every_place(bits):
    count, size = PACKS[bits]
    codes = torch.arange(2**bits).repeat_interleave(count).view(-1, count)
    assert packed_width(count, bits) == size
    assert torch.equal(unpack(pack(codes, bits), bits, count), codes.to(torch.uint8))


def test_unknown_bits_and_groups_that_do_not_divide_a_row_are_refused():
    with pytest.raises(ValueError, match="no packing for 5 bits"):
        pack(torch.zeros(8, dtype=torch.uint8), 5)
    with pytest.raises(ValueError, match="group_size=32 does not divide rows of 48 weights"):
        group_count(48, 32)
    assert (group_count(48, 16), group_count(48, None)) == (3, 1)
