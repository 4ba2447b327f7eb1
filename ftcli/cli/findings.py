"""Print findings of `ftcli check` and `ftcli doctor`, one marked line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftcli.planning.findings import Finding

MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}
INDENT = 12
#: Command that explains the settings of a failed finding without a fix.
WHERE = {
    "config": "ftcli schema", "model": "ftcli schema model", "targets": "ftcli schema method",
    "data": "ftcli schema data", "memory": "ftcli plan JOB",
}  # fmt: skip


def show_finding(finding: Finding) -> None:
    """Print one finding and, below it, the fix."""
    from rich.text import Text

    from ftcli.core.console import console
    from ftcli.core.escaping import escape_controls

    mark, style = MARKS[finding.status]
    line = Text(f"{mark} ", style=style).append(f"{finding.name:<10}", style="bold")
    console().print(line.append(escape_controls(finding.text), style="default"))
    fixes = finding.fix or (WHERE.get(finding.name, "ftcli doctor") if mark == "✗" else "")
    for index, fix in enumerate(fixes.splitlines()):
        arrow = " " if index else "→"
        console().print(
            Text(f"{' ' * INDENT}{arrow} {escape_controls(fix.strip())}", style="green")
        )
