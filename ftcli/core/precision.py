"""The precision that `auto` stands for on this machine."""

from __future__ import annotations

from typing import Any


def resolve_precision(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with trainer.precision and model.dtype decided, where they are `auto`.

    bf16 where the hardware multiplies it natively: on a CPU without such instructions it is many
    times slower than fp32. An `auto` dtype follows the precision. The decision is written into the
    run's config, so that another machine keeps it.
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
