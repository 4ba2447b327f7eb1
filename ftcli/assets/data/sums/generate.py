"""Sums of two-digit numbers in three ways of writing them down, two of which work digit by digit.

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


def worked(one: int, other: int) -> str:
    """`7+8=15, 3+5+1=9`: units, then tens with what is carried."""
    (tens, units), (more, add) = divmod(one, 10), divmod(other, 10)
    carried = "+1" if units + add > 9 else ""
    total = tens + more + (units + add) // 10
    return f"{units}+{add}={units + add}, {tens}+{more}{carried}={total}"


def row(one: int, other: int, form: str) -> dict[str, str]:
    """A prompt and its completion."""
    steps, total = worked(one, other), one + other
    completion = {
        "direct": str(total),
        "plain": f"{steps}, {total}",
        "tagged": f"<think>{steps}</think><answer>{total}</answer>",
    }[form]
    return {"prompt": f"{one}+{other}=", "completion": completion}


def splits(seed: int = SEED) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Name and rows of every split."""
    rng = random.Random(seed)
    pairs = [(one, other) for one in range(10, 100) for other in range(10, 100)]
    rng.shuffle(pairs)
    for split, count in ROWS.items():
        own, pairs = pairs[:count], pairs[count:]
        forms = rng.choices(FORMS, SHARES[split], k=count)
        yield split, [row(*pair, form) for pair, form in zip(own, forms, strict=True)]


def write(folder: Path) -> None:
    """All splits as gzipped JSON lines, without a time stamp."""
    for split, rows in splits():
        text = "".join(f"{json.dumps(one)}\n" for one in rows)
        with open(folder / f"{split}.jsonl.gz", "wb") as raw:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
                file.write(text.encode())


if __name__ == "__main__":
    write(Path(__file__).parent)
