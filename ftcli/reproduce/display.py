"""A reproduction for people: a line before each run, and "paper says | we measured | verdict"."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftcli.reproduce.experiment import Progress
from ftcli.reproduce.judge import FAILS, HOLDS, INCONCLUSIVE, NOT_HERE, VERDICTS, Verdict
from ftcli.reproduce.recipe import Claim

if TYPE_CHECKING:
    from ftcli.reproduce.reproduction import Reproduction

STYLES = {HOLDS: "green", FAILS: "bold red", INCONCLUSIVE: "yellow", NOT_HERE: "dim"}


def step(progress: Progress) -> str:
    """`run 4 of 12: fp4, seed 0 (about 11 min left)`."""
    one = progress.trial
    text = f"run {progress.number} of {progress.total}: {one.variant}, seed {one.seed}"
    return text if progress.left is None else f"{text} (about {duration(progress.left)} left)"


def duration(seconds: float) -> str:
    """Seconds, or minutes where there are many."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def verdicts(made: Reproduction) -> Iterator[Any]:
    """What to print: the title, the table, the sum."""
    from rich.table import Table
    from rich.text import Text

    paper = made.recipe.paper
    yield Text(f"{paper.title} (arXiv {paper.arxiv}, {paper.year}), {made.scale} scale", "bold")
    table = Table("", "claim", "paper says", "we measured", "verdict", box=None, pad_edge=False)
    for claim, verdict in zip(made.claims, made.verdicts, strict=True):
        mark = Text(verdict.verdict, STYLES[verdict.verdict])
        mark.append(f" ({verdict.why})", "default")
        cells = (str(made.number(claim)), claim.say, said(claim), measured(claim, verdict))
        table.add_row(*map(Text, cells), mark)
    yield table
    yield summary(v.verdict for v in made.verdicts)


def summary(found: Any) -> str:
    """`9 hold, 1 fails, 2 inconclusive`."""
    counts = Counter(found)
    plural = {HOLDS: "hold", FAILS: "fail"}
    parts = [
        f"{counts[v]} {plural.get(v, v) if counts[v] != 1 else v}" for v in VERDICTS if counts[v]
    ]
    return ", ".join(parts)


def said(claim: Claim) -> str:
    """The paper's figure; a question mark behind one that nobody has read there."""
    if claim.paper is None:
        return "–"
    text = claim.paper if isinstance(claim.paper, str) else number(claim.paper)
    return text if claim.verified else f"{text} (?)"


def measured(claim: Claim, verdict: Verdict) -> str:
    """The judged figure with its interval, and what it had to satisfy."""
    if verdict.mean is None:
        if not verdict.values:
            return "–"
        return "differences " + ", ".join(map(number, verdict.values))
    text = number(verdict.mean)
    if verdict.low is not None and verdict.high is not None and verdict.low != verdict.high:
        text += f" [{number(verdict.low)}, {number(verdict.high)}]"
    return f"{text}, {wanted(claim)}"


def wanted(claim: Claim) -> str:
    """`difference to lora16 within 0.02`."""
    name, value = claim.relation
    words = name.replace("_", " ")
    text = f"{words} {number(value)}" if name != "ranks" else "in this order"
    if claim.tolerance:
        text += f" ± {number(claim.tolerance)}"
    return f"{claim.compare} to {claim.of} {text}" if claim.of else text


def number(value: float) -> str:
    """Four significant digits; counts with all of theirs."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
