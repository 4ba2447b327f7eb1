"""Settings of a first job that fit a machine, a method and the number of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftcli.config.checks import read_allowed_values

FEW_ROWS = 1000  # rows below which a job is written for few rows
FEW_ROWS_STEPS = 60  # that few rows are trained for, in as many passes as that takes
MAX_PASSES = 20


@dataclass(frozen=True)
class Machine:
    """The machine that settings are chosen for: `memory_gb` is the memory of its GPU, None without one."""

    name: str
    memory_gb: float | None = None
    bf16: bool = False


def detect_machine() -> Machine:
    """Return the machine that torch sees."""
    import torch

    if not torch.cuda.is_available():
        return Machine("the CPU")
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    return Machine(torch.cuda.get_device_name(0), memory, torch.cuda.is_bf16_supported())


def choose_settings(
    capabilities: dict[str, Any], machine: Machine, rows: int | None = None
) -> dict[str, dict[str, Any]]:
    """Choose settings: group -> key -> (value, comment).

    Args:
        capabilities: capabilities of the method's class (`ftcli.methods.base.Method`).
        rows: number of training rows, if known.
    """
    values = _choose_for_machine(capabilities, machine)
    if rows is not None and rows < FEW_ROWS:
        _fit_few_rows(values, rows)
    return values


def _choose_for_machine(
    capabilities: dict[str, Any], machine: Machine
) -> dict[str, dict[str, Any]]:
    gpu, trains_base = machine.memory_gb, capabilities.get("artefact") == "model"
    small = gpu is not None and gpu < 40
    quantization = "nf4" if small and capabilities.get("quantisable") is not False else "none"
    packed = capabilities.get("packable") is not False
    recomputed = small and capabilities.get("gradient_checkpointing") is not False
    return {
        "model": {
            "quantization": (quantization, "none, nf4, fp4 or int8: storage of the frozen weights")
        },
        "data": {
            "max_length": (512 if gpu is None else 1024, "tokens of the longest document"),
            "packing": (None if packed else "none", "the method adds to each row"),
        },
        "optimizer": {
            "lr": (
                2e-5 if trains_base else 2e-4,
                "an adapter wants about ten times that of full training",
            )
        },
        "scheduler": {"warmup_ratio": (0.03, "share of the steps")},
        "trainer": {
            "epochs": (1.0, "passes over the data; or max_steps"),
            "batch_size": (4 if small else 16, "rows a forward pass"),
            "gradient_accumulation_steps": (4 if small else 1, "forward passes a step"),
            "precision": ("bf16" if machine.bf16 else "fp32", "fp32 or bf16"),
            "gradient_checkpointing": (True if recomputed else None, "less memory, more time"),
        },
    }


def _fit_few_rows(settings: dict[str, dict[str, Any]], rows: int) -> None:
    """Adapt epochs, batch size and rate to few rows, for about sixty steps."""
    size = 4 if rows < FEW_ROWS // 4 else 8
    passes = min(MAX_PASSES, max(1, round(FEW_ROWS_STEPS * size / max(1, rows))))
    trainer, rate = settings["trainer"], settings["optimizer"]["lr"][0]
    trainer["epochs"] = (float(passes), f"passes over {rows} rows; or max_steps")
    trainer["batch_size"] = (size, "rows a forward pass; few, so that there are steps enough")
    trainer["gradient_accumulation_steps"] = (1, "forward passes a step")
    settings["optimizer"]["lr"] = (2.5 * rate, "higher than for many rows: the steps are few")


def apply_requirements(settings: dict[str, dict[str, Any]], method: dict[str, Any]) -> None:
    """Replace settings that the method's `requires` does not allow."""
    for key, allowed in read_allowed_values(method).items():
        group, _, name = key.partition(".")
        setting = settings.get(group, {}).get(name)
        if setting is None or setting[0] not in allowed:
            settings.setdefault(group, {})[name] = (allowed[0], "the method asks for it")
