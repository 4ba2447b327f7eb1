"""`python -m tests.chaos --kills 200`: a campaign, and its log on the screen."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

SINGLE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main() -> int:
    """Status 1 where any run did not end as it should."""
    os.environ |= dict.fromkeys(SINGLE, "1") | {"TOKENIZERS_PARALLELISM": "false"}
    from .campaign import ALL, campaign

    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="a chain's own is printed beside it")
    parser.add_argument("--kinds", default=",".join(ALL))
    parser.add_argument("--keep", type=Path, help="a folder; without it only failures are kept")
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    say = lambda line: print(line, flush=True)  # noqa: E731
    chains = campaign(folder.resolve(), given.kinds.split(","), given.kills, given.seed, say)
    bad = [one for one in chains if one.wrong]
    say(
        f"{len(bad)} of {len(chains)} runs differ; they are kept in {folder}"
        if bad
        else "all equal"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
