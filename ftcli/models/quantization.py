"""Quantised loading through bitsandbytes, and the guard that keeps 4-bit layers trainable on CPU."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from ftcli.models.bits import FOUR_BIT

Quantization = Literal["none", "nf4", "fp4", "int8"]


def bitsandbytes_config(
    quantization: Quantization, double_quant: bool, compute_dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """What transformers is told so that the linears of the blocks load quantised.

    Embeddings, norms and the output layer stay as they are (QLoRA, arXiv 2305.14314, section 3).
    """
    if quantization == "none":
        return None
    if quantization not in FOUR_BIT:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def keep_trainable_on_cpu(model: nn.Module) -> None:
    """Turn off the inference path of 4-bit layers on CPUs with AVX512-BF16.

    bitsandbytes 0.50 repacks a weight in place on the first forward in eval mode; every later
    training forward then goes through an operation without autograd and the layers below get no
    gradient from it. The path also fails on sizes that are no multiple of its tiles.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def quiet_bitsandbytes() -> None:
    """Silence what bitsandbytes says at every layer or about the path that is turned off here."""
    logging.getLogger("bitsandbytes").addFilter(_worth_saying)
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_worth_saying)
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "gemm_4bit_forward" not in text and "inputs will be cast" not in text
