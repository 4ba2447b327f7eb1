"""Out-of-memory errors: how they are recognised, and what was being computed."""

from __future__ import annotations

import errno
from typing import Any

import torch

#: Phrases in the RuntimeError of allocators: torch's on the CPU, and those of libraries on a GPU.
OOM_PHRASES = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED", "can't allocate memory")


class OutOfMemory(Exception):
    """Memory ran out in a step.

    Attributes:
        step: counted from 1.
        batches: the micro-batches of the step in this process.
    """

    def __init__(self, step: int, batches: list[dict[str, Any]], error: BaseException) -> None:
        super().__init__(first_line(error))
        self.step, self.batches = step, batches


def is_oom(error: BaseException) -> bool:
    """Whether an error says that memory ran out, whichever library raised it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(p in str(error) for p in OOM_PHRASES)


def first_line(error: BaseException) -> str:
    """Return the first line of an allocator's message, without the place in its source."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line.rpartition("DefaultCPUAllocator: ")[2]


def describe_shape(batch: dict[str, Any]) -> str:
    """Return the shape of a micro-batch in words, padding counted: `16 rows x 812 tokens`."""
    rows, ids = len(batch["indices"]), batch.get("input_ids")
    if ids is None:
        return f"{rows} rows"
    if "lengths" in batch:
        return f"{rows} rows, {ids.numel():,} tokens end to end"
    return f"{ids.shape[0]} rows x {ids.shape[1]:,} tokens"
