"""What a finetuned diffusion model has learned of its target, less what it has forgotten."""

from __future__ import annotations

from pathlib import Path


def sara_balance(run: Path) -> float:
    """Share by which the target's denoising error fell minus the share by which the original's rose."""
    from ftcli.core.run_dir import RunDir

    result = RunDir.open(run).result()
    before, after = result["metrics_before"], result["metrics"]
    change = {
        name: after[f"eval.{name}"] / before[f"eval.{name}"] - 1 for name in ("loss", "original")
    }
    return -change["loss"] - change["original"]
