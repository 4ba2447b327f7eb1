"""One panel for an error: what is wrong, where, the line of the file, and what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.core import errors
from ftcli.core.escaping import printable
from ftcli.core.redaction import redacted

if TYPE_CHECKING:
    from rich.text import Text

_PLACE = re.compile(r"^(?P<file>.+\.ya?ml):(?P<line>\d+)$")


def show_error(error: errors.UserError) -> None:
    """Print the error (all of several problems) on stderr: a panel on a terminal, else plain lines."""
    from rich.panel import Panel
    from rich.text import Text

    from ftcli.core.console import console

    problems = error.problems if isinstance(error, errors.Problems) else [error]
    text = Text()
    for index, problem in enumerate(problems):
        text.append("\n" if index else "")
        _problem(text, problem)
    title = "error" if len(problems) == 1 else f"{len(problems)} errors"
    out = console(stderr=True)
    if out.is_terminal:
        out.print(Panel(text, title=title, title_align="left", border_style="red"))
    else:
        out.print(text)


def _problem(text: Text, problem: errors.UserError) -> None:
    if problem.where:
        text.append(f"{shown(problem.where)}  ", style="bold")
    text.append(shown(problem.what))
    line = _line(problem.where or "")
    if line:
        text.append("\n    ")
        text.append(shown(line), style="underline red")
    if problem.fix:
        text.append(f"\n→ {shown(problem.fix)}", style="green")


def shown(text: str) -> str:
    """Text for a screen: no secrets, and nothing that a terminal would obey."""
    return printable(redacted(text))


def _line(where: str) -> str:
    """The line of the YAML at fault, as it stands there."""
    from ftcli.config.paths import found

    place = _PLACE.match(where)
    file = found(place["file"]) if place else None
    if place is None or file is None:
        return ""
    lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    number = int(place["line"])
    return lines[number - 1].strip() if number <= len(lines) else ""
