"""The dtype of products follows autocast, and can be kept from it."""

from __future__ import annotations

import torch

from ftcli.models.mixed_precision import disable_autocast, get_product_dtype


def test_products_have_the_dtype_of_autocast_where_it_is_on():
    x = torch.ones(2, 2)
    assert get_product_dtype(x) == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert get_product_dtype(x) == torch.bfloat16
        with disable_autocast(x):
            assert (x @ x).dtype == torch.float32


def test_the_meta_device_has_no_autocast():
    x = torch.ones(2, 2, device="meta")
    assert get_product_dtype(x) == torch.float32
    with disable_autocast(x):
        assert (x @ x).dtype == torch.float32
