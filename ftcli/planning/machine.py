"""The machine that a job has to fit: memory of a GPU or of the host, and disk."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

GB = 1e9  # 10^9 bytes, everywhere
#: Bytes taken before the first tensor: a CUDA context with its libraries (typical); on a CPU python
#: with torch, transformers and peft (measured: 0.56 GB resident after three steps of a tiny batch).
RUNTIME = {"cuda": int(0.6 * GB), "cpu": int(0.56 * GB)}
#: Freed memory that the allocator cannot use again, as a share of all activations of a forward pass.
#: Measured resident sizes under glibc 2.36, which splits aligned blocks: 0.8 to 0.9 for 5,000 to
#: 10,000 tokens of the shipped model, alike with and without gradient checkpointing, 0.5 for 1,900.
#: CUDA's own allocator was not measured.
HEAP = {"cuda": 0.0, "cpu": 0.8}


@dataclass(frozen=True)
class Machine:
    """The machine that training would run on.

    Attributes:
        name: its name in messages.
        kind: "cuda" or "cpu".
        memory: free bytes, all of them for a GPU that is assumed.
        assumed: given by the user, not detected.
    """

    name: str
    kind: str
    memory: int
    assumed: bool = False

    @property
    def runtime(self) -> int:
        """Bytes that libraries take."""
        return RUNTIME[self.kind]

    @property
    def heap(self) -> float:
        """Share of a forward pass's activations that the allocator cannot use again."""
        return HEAP[self.kind]


def find_machine(gpu: float | None = None) -> Machine:
    """Return a GPU of `gpu` GB if given, else the first GPU of this machine, else its main memory."""
    if gpu is not None:
        return Machine(f"a GPU of {gpu:g} GB", "cuda", int(gpu * GB), assumed=True)
    import torch

    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info(0)
        return Machine(f"GPU 0 ({torch.cuda.get_device_name(0)})", "cuda", free)
    return Machine("this machine (no GPU)", "cpu", free_memory())


def free_memory() -> int:
    """Return the bytes of main memory a new process can have, within its control group's limit."""
    available = _read_meminfo("MemAvailable")
    if available is None:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read_int(Path("/sys/fs/cgroup/memory.max"))
    used = _read_int(Path("/sys/fs/cgroup/memory.current"))
    return available if limit is None or used is None else min(available, limit - used)


def free_disk(folder: str | Path) -> int:
    """Return the free bytes where `folder` is, or where it will be created."""
    path = Path(folder).resolve()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _read_meminfo(name: str) -> int | None:
    path = Path("/proc/meminfo")
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else ():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not Linux, or "max"
        return None
