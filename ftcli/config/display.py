"""Text for the terminal: a composed job as YAML with the origin of each value, and errors as panels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core import errors
from ftcli.core.escaping import escape_controls
from ftcli.core.redaction import redact

if TYPE_CHECKING:
    from rich.text import Text

    from ftcli.config.job import ComposedJob

#: Largest column of the comments; longer lines have theirs behind the value.
MAX_COLUMN = 60


def format_job(composed: ComposedJob) -> str:
    """Format a job as YAML that composes to the same job; each leaf ends in `# file:line` or `# command line`."""
    lines = list(_iter_lines(composed, composed.config, "", 0))
    column = min(MAX_COLUMN, max((len(text) for text, origin in lines if origin), default=0))
    return "\n".join(
        f"{text.ljust(column)}  # {origin}" if origin else text for text, origin in lines
    )


def _iter_lines(
    composed: ComposedJob, node: Mapping[str, Any], prefix: str, depth: int
) -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        start = f"{'  ' * depth}{format_scalar(name)}:"
        if isinstance(value, Mapping) and value:
            yield start, ""
            yield from _iter_lines(composed, value, key, depth + 1)
        else:
            yield f"{start} {format_scalar(value)}", composed.where(key)


def format_scalar(value: Any) -> str:
    """Format a value as one line of YAML, small numbers in short form (0.0001, 1.0e-05)."""
    import yaml  # inside, since every start of the command imports this module

    if isinstance(value, float):
        return _format_number(value)
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _format_number(value: float) -> str:
    text = repr(value)
    if "e" in text and "." not in text:  # YAML 1.1 reads a number only with the point: 1.0e-05
        text = text.replace("e", ".0e")
    return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(text, text)


_PLACE = re.compile(r"^(?P<file>.+\.ya?ml):(?P<line>\d+)$")


def show_error(error: errors.UserError) -> None:
    """Print an error, or all of several, on stderr: as a panel on a terminal, else as plain lines."""
    from rich.panel import Panel
    from rich.text import Text

    from ftcli.core.console import console

    problems = error.problems if isinstance(error, errors.Problems) else [error]
    text = Text()
    for index, problem in enumerate(problems):
        text.append("\n" if index else "")
        _append_problem(text, problem)
    title = "error" if len(problems) == 1 else f"{len(problems)} errors"
    out = console(stderr=True)
    if out.is_terminal:
        out.print(Panel(text, title=title, title_align="left", border_style="red"))
    else:
        out.print(text)


def _append_problem(text: Text, problem: errors.UserError) -> None:
    if problem.where:
        text.append(f"{sanitize_text(problem.where)}  ", style="bold")
    text.append(sanitize_text(problem.what))
    line = _read_line(problem.where or "")
    if line:
        text.append("\n    ")
        text.append(sanitize_text(line), style="underline red")
    if problem.fix:
        text.append(f"\n→ {sanitize_text(problem.fix)}", style="green")


def sanitize_text(text: str) -> str:
    """Remove secrets and terminal control sequences from text."""
    return escape_controls(redact(text))


def _read_line(where: str) -> str:
    """Return the text of the YAML line that `where` (file:line) names; empty where there is none."""
    from ftcli.config.paths import find_formatted_path

    place = _PLACE.match(where)
    file = find_formatted_path(place["file"]) if place else None
    if place is None or file is None:
        return ""
    lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    number = int(place["line"])
    return lines[number - 1].strip() if number <= len(lines) else ""
