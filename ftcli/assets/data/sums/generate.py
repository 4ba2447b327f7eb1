"""Sums of two-digit numbers in three notations, two of which show the addition digit by digit.

    python generate.py        # writes base, train and test beside this file, the same bytes every time

    direct    37+58=    95
    plain     37+58=    7+8=15, 3+5+1=9, 95
    tagged    37+58=    <think>7+8=15, 3+5+1=9</think><answer>95</answer>

No sum is in two splits. `base` is mostly plain, three fifths of `train` are direct, all of `test` is tagged.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

SEED = 49
ROWS = {"base": 5000, "train": 1600, "test": 400}
FORMS = ("direct", "plain", "tagged")
SHARES = {"base": (0.1, 0.6, 0.3), "train": (0.6, 0.2, 0.2), "test": (0.0, 0.0, 1.0)}


def write_steps(first: int, second: int) -> str:
    """Return `7+8=15, 3+5+1=9`: the sum of the units, then of the tens with the carry."""
    (tens, units), (more_tens, more_units) = divmod(first, 10), divmod(second, 10)
    carry = "+1" if units + more_units > 9 else ""
    total = tens + more_tens + (units + more_units) // 10
    return f"{units}+{more_units}={units + more_units}, {tens}+{more_tens}{carry}={total}"


def build_row(first: int, second: int, form: str) -> dict[str, str]:
    """Return a prompt and its completion."""
    steps, total = write_steps(first, second), first + second
    completion = {
        "direct": str(total),
        "plain": f"{steps}, {total}",
        "tagged": f"<think>{steps}</think><answer>{total}</answer>",
    }[form]
    return {"prompt": f"{first}+{second}=", "completion": completion}


def draw_splits(seed: int = SEED) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Yield name and rows of every split."""
    rng = random.Random(seed)
    pairs = [(first, second) for first in range(10, 100) for second in range(10, 100)]
    rng.shuffle(pairs)
    for split, count in ROWS.items():
        chosen, pairs = pairs[:count], pairs[count:]
        forms = rng.choices(FORMS, SHARES[split], k=count)
        yield split, [build_row(*pair, form) for pair, form in zip(chosen, forms, strict=True)]


def write(folder: Path) -> None:
    """Write all splits as gzipped JSON lines without a time stamp."""
    for split, rows in draw_splits():
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        with open(folder / f"{split}.jsonl.gz", "wb") as raw:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
                file.write(text.encode())


if __name__ == "__main__":
    write(Path(__file__).parent)
