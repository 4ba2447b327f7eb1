"""Start quickly: a plan lives for seconds, most of which would go into importing libraries."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lean() -> Iterator[None]:
    """While this lasts nothing is collected, downloaded by `datasets`, or said about kernels.

    Importing torch, transformers and peft makes millions of objects that all stay: garbage
    collection spent a fifth of the time on them. Data sets of the hub are taken from the cache
    only, for a plan must not download gigabytes.
    """
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
