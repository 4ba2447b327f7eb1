"""FLOPs as torch counts them, attention on a CPU included."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

aten = torch.ops.aten


def build_flop_counter() -> FlopCounterMode:
    """Return torch's counter of FLOPs, two a multiply-accumulate of matrix products and attention.

    torch 2.13 counts nothing for fused attention on a CPU (pytorch/pytorch#195460): it has formulas for
    the kernels of GPUs only, which are given to those of the CPU here.
    """
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _count_attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _count_attention_backward,
        },
    )


def _count_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _count_attention_backward(
    out: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(out, query, key, value))
