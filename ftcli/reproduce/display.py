"""Terminal output of a reproduction: a line before each run, and the table of verdicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ftcli.config.recipe import KINDS, Claim
from ftcli.reproduce.experiment import Progress
from ftcli.reproduce.judge import FAILS, HOLDS, INCONCLUSIVE, NOT_HERE, VERDICTS, Verdict

if TYPE_CHECKING:
    from ftcli.reproduce.reproduction import Reproduction

NEVER = "not judged yet"
STYLES = {HOLDS: "green", FAILS: "bold red", INCONCLUSIVE: "yellow", NOT_HERE: "dim"}


def describe_progress(progress: Progress) -> str:
    """Return a line such as `run 4 of 12: fp4, seed 0 (about 11 min left)`."""
    trial = progress.trial
    text = f"run {progress.number} of {progress.total}: {trial.variant}, seed {trial.seed}"
    return (
        text if progress.left is None else f"{text} (about {format_duration(progress.left)} left)"
    )


def format_duration(seconds: float) -> str:
    """Return a duration in seconds, or in minutes from 90 s on."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def render_verdicts(reproduction: Reproduction) -> Iterator[Any]:
    """Yield the title, the table of verdicts, and the summary line."""
    from rich.table import Table
    from rich.text import Text

    paper = reproduction.recipe.paper
    yield Text(
        f"{paper.title} (arXiv {paper.arxiv}, {paper.year}), {reproduction.scale} scale", "bold"
    )
    head = ("", "claim", "kind", "paper says", "we measured", "verdict")
    table = Table(*head, box=None, pad_edge=False)
    for claim, verdict in zip(reproduction.claims, reproduction.verdicts, strict=True):
        mark = Text(verdict.verdict, STYLES[verdict.verdict])
        mark.append(f" ({verdict.why})", "default")
        number = str(reproduction.number(claim))
        cells = (
            number,
            claim.say,
            format_kind(claim),
            format_paper_figure(claim),
            format_measured(claim, verdict),
        )
        table.add_row(*map(Text, cells), mark)
    yield table
    yield summarise_verdicts(
        (claim, verdict.verdict)
        for claim, verdict in zip(reproduction.claims, reproduction.verdicts, strict=True)
    )


def summarise_verdicts(judged: Iterable[tuple[Claim, str | None]]) -> str:
    """Return counts such as `central 2/3 hold, exact 9/9, statistical 3/5; 1 fails, 1 not judged yet`.

    Central claims are counted separately and once more within their kind.
    """
    claims = list(judged)
    groups = {"central": [v for claim, v in claims if claim.central]}
    groups |= {kind: [v for claim, v in claims if claim.kind == kind] for kind in KINDS}
    shares = [
        f"{name} {group.count(HOLDS)}/{len(group)}" for name, group in groups.items() if group
    ]
    shares[0] += " hold" if shares else ""
    counts = Counter(verdict or NEVER for _, verdict in claims)
    rest = [v for v in (*VERDICTS, NEVER) if v != HOLDS and counts[v]]
    others = [f"{counts[v]} {'fail' if v == FAILS and counts[v] != 1 else v}" for v in rest]
    return "; ".join(part for part in (", ".join(shares), ", ".join(others)) if part)


def format_kind(claim: Claim) -> str:
    """Return the kind of a claim, such as `exact` or `statistical, central`."""
    return f"{claim.kind}, central" if claim.central else claim.kind


def format_paper_figure(claim: Claim) -> str:
    """Return the figure of the paper, with (?) where it was not checked in the paper itself."""
    if claim.paper is None:
        return "–"
    text = claim.paper if isinstance(claim.paper, str) else format_number(claim.paper)
    return text if claim.verified else f"{text} (?)"


def format_measured(claim: Claim, verdict: Verdict) -> str:
    """Return the judged figure with its interval and the relation that it must satisfy."""
    if verdict.mean is None:
        if not verdict.values:
            return "–"
        return "differences " + ", ".join(map(format_number, verdict.values))
    text = format_number(verdict.mean)
    if verdict.low is not None and verdict.high is not None and verdict.low != verdict.high:
        text += f" [{format_number(verdict.low)}, {format_number(verdict.high)}]"
    return f"{text}, {format_relation(claim)}"


def format_relation(claim: Claim) -> str:
    """Return the relation of a claim in words, such as `difference to lora16 within 0.02`."""
    name, value = claim.relation
    words = name.replace("_", " ")
    text = f"{words} {format_number(value)}" if name != "ranks" else "in this order"
    if claim.tolerance:
        text += f" ± {format_number(claim.tolerance)}"
    return f"{claim.compare} to {claim.of} {text}" if claim.of else text


def format_number(value: float) -> str:
    """Return a number with four significant digits, or an integer with all digits."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
