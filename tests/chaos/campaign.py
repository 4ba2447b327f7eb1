"""Kills until there have been enough, a line each, and the table by kind."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from .chains import Chain, Reference, chain, reference
from .faults import DENIED, FULL, KILL, PLACES, TERM
from .jobs import KINDS, REPRODUCTION, SWEEP, Bench
from .zygote import threads

ALL = (*KINDS, SWEEP, REPRODUCTION)


def campaign(
    folder: Path, kinds: Sequence[str], kills: int, seed: int, say: Callable[[str], None]
) -> list[Chain]:
    """Chains of all kinds in turn until so many things have gone wrong.

    Raises:
        RuntimeError: an undisturbed run fails or cannot be repeated.
    """
    prepare()
    bench = Bench(folder)
    bench.write()
    known: dict[str, Reference] = {}
    began, found = time.monotonic(), list[Chain]()
    while sum(len(one.struck) for one in found) < kills:
        kind = kinds[len(found) % len(kinds)]
        if kind not in known:
            known[kind] = reference(bench, kind)
            say(f"{kind:13} undisturbed: {known[kind].calls} calls; {threads()} threads")
        found.append(chain(bench, kind, seed + len(found), known[kind]))
        say(told(found[-1]))
    say(f"\n{table(found)}\n{time.monotonic() - began:.0f} s")
    return found


def prepare() -> None:
    """One thread, and everything imported that any command needs."""
    import torch

    torch.set_num_threads(1)
    import datasets  # noqa: F401
    import transformers  # noqa: F401

    from ftcli.jobs import train  # noqa: F401
    from ftcli.trainer import checkpoint  # noqa: F401


def told(one: Chain) -> str:
    """What happened to a chain."""
    happened = "; ".join(f"{fault} in {ended.struck}" for fault, ended in one.struck)
    verdict = f"DIFFERS: {', '.join(one.wrong[:6])}" if one.wrong else "identical"
    return f"{one.kind:13} seed {one.seed:<5} {verdict:10} {happened}"


def table(chains: Sequence[Chain]) -> str:
    """By kind: runs, how many ended identical, what happened to them, and where it fell."""
    kinds = list(dict.fromkeys(one.kind for one in chains))
    whats = [KILL, TERM, FULL, DENIED]
    head = ["kind", "runs", "identical", "kills", *whats, *PLACES]
    rows = [_row(kind, [one for one in chains if one.kind == kind], whats) for kind in kinds]
    rows.append(_row("all", chains, whats))
    lines = [head, *rows]
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(head))]
    texts = ["  ".join(f"{x!s:>{w}}" for x, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(texts)


def _row(name: str, chains: Sequence[Chain], whats: Sequence[str]) -> list[object]:
    struck = [pair for one in chains for pair in one.struck]
    what = Counter(fault.what for fault, _ in struck)
    place = Counter(ended.struck for _, ended in struck)
    same = sum(not one.wrong for one in chains)
    counts = [what[w] for w in whats] + [place[p] for p in PLACES]
    return [name, len(chains), same, len(struck), *counts]
