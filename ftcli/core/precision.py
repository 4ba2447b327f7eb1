"""What `auto` means on this machine, written into the run's config so that it stays what it was."""

from __future__ import annotations

from typing import Any


def settle(config: dict[str, Any]) -> dict[str, Any]:
    """The config with trainer.precision and model.dtype decided, where they are `auto`.

    Half precision where the hardware multiplies it natively: on a CPU without such instructions
    bf16 is many times slower than fp32. An `auto` dtype follows the precision.
    """
    model, trainer = dict(config["model"]), dict(config["trainer"])
    if trainer.get("precision", "auto") == "auto":
        trainer["precision"] = "bf16" if supports_bf16() else "fp32"
    if model.get("dtype") == "auto":
        model["dtype"] = "bfloat16" if trainer["precision"] == "bf16" else "float32"
    return {**config, "model": model, "trainer": trainer}


def supports_bf16() -> bool:
    """Whether this machine's GPU, or its CPU where there is no GPU, computes in bfloat16."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
