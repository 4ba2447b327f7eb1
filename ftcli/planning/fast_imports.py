"""Quick start: a plan lives for seconds, most of which would go into importing libraries."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 100_000  # new objects that only the import of libraries makes


@contextmanager
def fast_imports() -> Iterator[None]:
    """Suspend garbage collection and downloads of data sets inside the block.

    Importing torch, transformers and peft makes hundreds of thousands of objects that all stay:
    looking through them for garbage took a third of the time, half of that as the process ended.
    They are frozen instead, here and at the end. Data sets of the hub are taken from the cache only,
    for a plan must not fetch format_bytes.
    """
    atexit.register(gc.freeze)
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > MANY:
            gc.freeze()
        if collecting:
            gc.enable()
