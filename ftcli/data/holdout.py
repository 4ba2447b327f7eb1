"""Which rows are held out: decided by what a row asks, so that no prompt lies on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

FULL = 1 << 64


def position(prompt: str) -> int:
    """Where a prompt falls in [0, 2**64); the same on every machine and for every order of rows."""
    digest = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def threshold(share: float, prompts: Iterable[str]) -> int:
    """Prompts at positions below this are held out.

    Usually the share itself. A small set of which no prompt falls below it gives its lowest one,
    provided that another is left to train on. Reading stops at the first prompt that is held out,
    after 1/share rows on average.
    """
    limit = int(share * FULL)
    lowest, different = FULL, False
    for prompt in prompts:
        here = position(prompt)
        if here < limit:
            return limit
        different |= lowest not in (FULL, here)
        lowest = min(lowest, here)
    return lowest + 1 if different else limit
