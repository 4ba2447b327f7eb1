"""What a step of side tuning costs beside one of LoRA on the same base."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

BATCHES, ROUNDS = 4, 3
LORA = {"_target_": "ftcli.methods.peft.Peft", "r": 16, "lora_alpha": 32}


def qst_step_over_lora(run: Path) -> float:
    """Time of its forward and backward passes over LoRA's (rank 16, all linears), in turn, same rows."""
    from ftcli.reproduce.probe import again
    from ftcli.run.build import build_run

    side = again(run)
    lora = build_run({**side.config, "method": LORA})
    batches, spent = first_batches(side, BATCHES), [0.0, 0.0]
    for turn in range(ROUNDS + 1):
        for i, one in enumerate((side, lora)):
            took = seconds(one, batches)
            spent[i] += took if turn else 0.0  # kernels are chosen in the first
    return spent[0] / spent[1]


def first_batches(run: Any, count: int) -> list[dict[str, Any]]:
    """What the run trains on first."""
    loader = run.loader()
    return [loader.batch(rows) for rows in loader.batches(0)[:count]]


def seconds(run: Any, batches: list[dict[str, Any]]) -> float:
    """Time of passes forward and backward; on a CPU that of the process, whatever else runs there."""
    import torch

    from ftcli.reproduce.probe import loss_of

    on_gpu = run.accelerator.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    run.model.train()
    began = clock()
    for batch in batches:
        loss_of(run, run.model, batch).sum().backward()
        run.model.zero_grad()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - began
