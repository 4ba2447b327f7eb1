"""Quantised loading through bitsandbytes, and a workaround that keeps 4-bit layers trainable on CPU."""

from __future__ import annotations

import logging
import re
import shlex
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from ftcli.core.errors import UserError
from ftcli.models.bits import FOUR_BIT
from ftcli.models.fp8 import refuse_cut_blocks
from ftcli.models.weight_files import WeightFiles

Quantization = Literal["none", "nf4", "fp4", "int8"]


def build_bitsandbytes_config(
    quantization: Quantization, double_quant: bool, compute_dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """Build the configuration by which transformers quantises the linears of the blocks; None: no quantisation.

    Embeddings, norms and the output layer are not quantised (QLoRA, arXiv 2305.14314, section 3).
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


def find_quantization_method(config: Any) -> str | None:
    """Return the method by which a checkpoint is quantised on disk, by its config.json; None: plain."""
    stated = getattr(config, "quantization_config", None)
    if stated is None:
        stated = getattr(getattr(config, "text_config", None), "quantization_config", None)
    if stated is None:
        return None
    values = stated if isinstance(stated, dict) else stated.to_dict()
    if values.get("load_in_4bit") or values.get("load_in_8bit"):
        return "bitsandbytes"  # which config.json of older versions does not name
    method = values.get("quant_method")
    return str(getattr(method, "value", method))


def check_prequantized(
    config: Any, wanted: Quantization, name: str, device: str, files: WeightFiles | None
) -> str | None:
    """Check that a quantised checkpoint can be loaded; return its quantisation method, or None.

    transformers' own quantiser is asked, so that missing packages are known before a file is read.

    Args:
        wanted: the quantisation that the configuration asks for.
        name: name of the model, for the message.
        device: where the model will be.
        files: as far as they are on this machine.

    Raises:
        UserError: a package or a GPU is missing, quantised weights are to be quantised again, or
            transformers would dequantise them wrongly.
    """
    stored = find_quantization_method(config)
    if stored is None:
        return None
    if wanted != "none" and stored != "bitsandbytes":
        raise UserError(
            f"{name} is stored quantised ({stored}), and cannot be quantised once more.",
            where="model.quantization",
            fix="model.quantization=none, or model.path=the checkpoint before it was quantised",
        )
    from transformers.quantizers.auto import AutoHfQuantizer

    stated = getattr(config, "quantization_config", None) or config.text_config.quantization_config
    try:
        quantiser = AutoHfQuantizer.from_config(stated, pre_quantized=True)
        quantiser.validate_environment(device_map={"": device}, weights_only=True)
    except (ImportError, RuntimeError, ValueError, TypeError) as error:
        raise _make_loading_error(name, stored, error) from error
    if stored == "fp8" and files:
        refuse_cut_blocks(name, quantiser.quantization_config, files.shapes())
    return stored


def _make_loading_error(name: str, stored: str, error: Exception) -> UserError:
    """Return the error with what the library lacks, and the command that its message names."""
    reason = " ".join(str(error).split()).partition(" - supported types")[0].rstrip(".")
    command = re.search(r"pip install ([^`)]+)", reason)
    package, page = getattr(error, "name", None), re.search(r"https://[^`\s]+", reason)
    fix = "model.path=the checkpoint before it was quantised"
    if command:
        fix = f"pip install {shlex.join(shlex.split(command.group(1)))}"
    elif package:
        reason, fix = f"the package '{package}' is not installed", f"pip install {package}"
    elif stored == "hqq" and isinstance(error, ImportError):
        fix = "pip install hqq"  # the library's message does not name it
    elif page:
        fix = f"install it as {page.group()} says"
    return UserError(
        f"{name} is stored quantised ({stored}), which cannot be loaded here: {reason}.",
        where="model.path",
        fix=fix,
    )


def disable_cpu_inference_path(model: nn.Module) -> None:
    """Disable the inference path of 4-bit layers on CPUs with AVX512-BF16, which would stop their training.

    bitsandbytes 0.50 repacks a weight in place on the first forward in eval mode; every later
    training forward then goes through an operation without autograd and the layers below get no
    gradient from it. The path also fails on sizes that are no multiple of its tiles.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def quiet_bitsandbytes() -> None:
    """Filter what bitsandbytes logs at every layer, or about the path that is disabled here."""
    logging.getLogger("bitsandbytes").addFilter(_is_worth_showing)
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_worth_showing)
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_worth_showing)


def _is_worth_showing(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "gemm_4bit_forward" not in text and "inputs will be cast" not in text
