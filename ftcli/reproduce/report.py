"""Write report.md and report.html of a reproduction: verdicts, variants, plots."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli import __version__
from ftcli.core.atomic import write_text
from ftcli.reproduce.display import (
    format_kind,
    format_measured,
    format_number,
    format_paper_figure,
    summarise_verdicts,
)
from ftcli.reproduce.figures import build_table
from ftcli.run.report import table as markdown_table

if TYPE_CHECKING:
    from ftcli.reproduce.reproduction import Reproduction

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .7rem;text-align:left;"
    "border-bottom:1px solid #ddd;vertical-align:top}img{max-width:100%}"
    ".holds{color:#1a7f37}.fails{color:#c62828;font-weight:bold}.inconclusive{color:#a15c00}"
)


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Table:
    """A table of text: head and rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG file beside the report."""

    path: Path
    caption: str


Part = Heading | Table | Picture | str


def write_report(reproduction: Reproduction) -> Path | None:
    """Write report.md, report.html and plots/ beside the runs; None where there were no runs."""
    from ftcli.reproduce.plots import draw_all

    if reproduction.experiment is None:
        return None
    folder = reproduction.experiment.folder
    plots = draw_all(reproduction.experiment, folder / "plots")
    parts = list(_parts(reproduction, plots))
    path = folder / "report.md"
    write_text(path, "\n\n".join(_markdown(part) for part in parts) + "\n")
    body = "\n".join(_html(part) for part in parts)
    head = f"<!doctype html><meta charset=utf-8><title>{escape(reproduction.recipe.paper.title)}</title>"
    write_text(folder / "report.html", f"{head}<style>{STYLE}</style>{body}\n")
    return path


def _parts(reproduction: Reproduction, plots: Sequence[Path]) -> Iterator[Part]:
    from ftcli.reproduce.origin import current_commit
    from ftcli.reproduce.plots import CAPTIONS
    from ftcli.reproduce.verdicts import describe_machine

    experiment, paper = reproduction.experiment, reproduction.recipe.paper
    assert experiment is not None
    yield Heading(1, paper.title)
    yield (
        f"arXiv {paper.arxiv}, {paper.year}. Recipe {reproduction.recipe.name} at the {reproduction.scale} scale, "
        f"seeds {', '.join(map(str, experiment.seeds))}, ftcli {__version__}, "
        f"commit {(current_commit() or 'unknown')[:9]}, {time.strftime('%Y-%m-%d')}, {describe_machine()}."
    )
    if reproduction.overrides:
        yield f"Changed on the command line: {' '.join(reproduction.overrides)}. Not the recipe as it stands."
    yield Heading(2, "Claims")
    pairs = zip(reproduction.claims, reproduction.verdicts, strict=True)
    yield f"{summarise_verdicts((claim, verdict.verdict) for claim, verdict in pairs)}."
    yield _claims(reproduction)
    yield from _notes(reproduction)
    yield from _search(reproduction)
    yield Heading(2, "Variants")
    yield from _variants(reproduction)
    yield Heading(2, "Pictures")
    for path in plots:
        yield Picture(path, CAPTIONS[path.stem])
    yield Heading(2, "Runs")
    rows = [(trial.variant, str(trial.seed), trial.path.name) for trial in experiment.trials]
    yield Table(("variant", "seed", "folder"), rows)


def _claims(reproduction: Reproduction) -> Table:
    rows = [
        (
            str(reproduction.number(c)),
            c.say,
            format_kind(c),
            format_paper_figure(c),
            format_measured(c, v),
            v.verdict,
            v.why,
        )
        for c, v in zip(reproduction.claims, reproduction.verdicts, strict=True)
    ]
    head = ("", "claim", "kind", "paper says", "we measured", "verdict", "because")
    return Table(head, rows)


def _notes(reproduction: Reproduction) -> Iterator[str]:
    yield (
        "A figure that chance moves is judged by the t-interval of its mean or mean paired "
        "difference over seeds, in square brackets: a claim holds when all of it satisfies the "
        "relation, fails when none of it does. Its level is 96 % at the first look at a figure and "
        "higher at each further one, so that all of them together err in 5 of 100 repetitions. "
        "(?) marks a figure not checked against the paper."
    )
    for claim in reproduction.claims:
        if claim.note:
            yield f"{reproduction.number(claim)}: {claim.note}"


def _search(reproduction: Reproduction) -> Iterator[Part]:
    """Yield every trial of the search of settings, or a sentence that there was none."""
    from ftcli.reproduce import tuning

    recipe, scale = reproduction.recipe, reproduction.scale
    tune = recipe.get_tune(scale)
    if tune is None:
        if recipe.compares_variants(scale):
            yield Heading(2, "Settings")
            yield "They were not searched alike: the recipe has no `tune:`."
        return
    yield Heading(2, "Settings")
    kept = tuning.load_search(recipe, scale)
    yield (
        f"Chosen by {tune.by} ({'highest' if tune.highest else 'lowest'}) of one run a trial with seed "
        f"{kept['seed']}, on rows that judge nothing ({', '.join(tune.changes)}); {kept['date']}."
    )
    rows = [
        (v, " ".join(t["set"]), _cell(t[tune.by]), "chosen" if t["set"] == search["chosen"] else "")
        for v, search in kept["variants"].items()
        for t in search["trials"]
    ]
    yield Table(("variant", "settings", tune.by, ""), rows)
    for variant, why in tune.fixed.items():
        yield f"{variant} was not searched: {why}."


def _variants(reproduction: Reproduction) -> Iterator[Part]:
    """Yield the table of variants: means over seeds, the best first."""
    assert reproduction.experiment is not None
    rows_by_variant = build_table(reproduction.experiment)
    names = list(dict.fromkeys(name for v in rows_by_variant.values() for name in v))
    rows = [
        [variant, *(_cell(v.get(name)) for name in names)] for variant, v in rows_by_variant.items()
    ]
    yield Table(("variant", *names), rows)
    if "rank" in names:
        yield (
            "Means over seeds. Variants share a rank while the 95 % interval of the paired "
            "difference to the first of that rank reaches zero."
        )


def _cell(value: Any) -> str:
    return "–" if value is None else format_number(value)


def _markdown(part: Part) -> str:
    if isinstance(part, Heading):
        return f"{'#' * part.level} {part.text}"
    if isinstance(part, Table):
        return markdown_table(
            part.head, [[cell.replace("|", "\\|") for cell in r] for r in part.rows]
        )
    if isinstance(part, Picture):
        return f"![{part.caption}](plots/{part.path.name})"
    return part


def _html(part: Part) -> str:
    """Return a part as HTML; pictures are embedded, so that the file is complete by itself."""
    if isinstance(part, Heading):
        return f"<h{part.level}>{escape(part.text)}</h{part.level}>"
    if isinstance(part, Table):
        lines = [_row(part.head, "th"), *(_row(row, "td") for row in part.rows)]
        return f"<table>{''.join(lines)}</table>"
    if isinstance(part, Picture):
        data = base64.b64encode(part.path.read_bytes()).decode()
        text = escape(part.caption)
        return (
            f'<figure><img alt="{text}" src="data:image/png;base64,{data}"></figure><p>{text}</p>'
        )
    return f"<p>{escape(part)}</p>"


def _row(cells: Sequence[str], tag: str) -> str:
    marked = ("holds", "fails", "inconclusive")
    return f"<tr>{''.join(_td(c, tag, c if c in marked else '') for c in cells)}</tr>"


def _td(text: str, tag: str, kind: str) -> str:
    return f"<{tag}{f' class={kind}' if kind else ''}>{escape(text)}</{tag}>"
