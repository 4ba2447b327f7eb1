"""Start quickly: a plan lives for seconds, most of which would go into importing libraries."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

QUANTISER = "bitsandbytes"
MANY = 100_000  # new objects that only the import of libraries makes


@contextmanager
def lean() -> Iterator[None]:
    """While this lasts nothing is collected, and no data set is downloaded.

    Importing torch, transformers and peft makes hundreds of thousands of objects that all stay:
    looking through them for garbage took a third of the time, half of that as the process ended.
    They are frozen instead, here and at the end. Data sets of the hub are taken from the cache only,
    for a plan must not fetch gigabytes.
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


@contextmanager
def without_quantiser() -> Iterator[None]:
    """While this lasts peft finds no bitsandbytes, whose import takes a second (it loads inductor).

    On the meta device nothing is quantised, so peft's answer is the same. What it has noted about
    the package is forgotten afterwards. Nothing is done where the package is imported already.
    """
    if QUANTISER in sys.modules:
        yield
        return
    from transformers.utils import is_bitsandbytes_available

    is_bitsandbytes_available()  # transformers notes its answer for good: let it be the true one
    sys.modules[QUANTISER] = None  # type: ignore[assignment]  # what import takes for "absent"
    try:
        yield
    finally:
        del sys.modules[QUANTISER]
        noted = sys.modules.get("peft.import_utils")
        for name in ("is_bnb_available", "is_bnb_4bit_available"):
            forget = getattr(getattr(noted, name, None), "cache_clear", None)
            if forget is not None:
                forget()
