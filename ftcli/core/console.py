"""Output of verbs that show something: for people (rich) or for programs (JSON)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from ftcli.core.escaping import escape_json

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console(stderr: bool = False) -> Console:
    """Return the process's rich console; rich itself honours NO_COLOR and plain pipes.

    Lines are wrapped on a terminal only: logs and pipes get them whole.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Console(stderr=stderr, highlight=False)
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=1000)


def emit(data: Any, as_json: bool, render: Callable[[], None]) -> None:
    """Print `data` as JSON if `as_json`, otherwise call `render`."""
    if as_json:
        text = json.dumps(data, indent=2, default=str, ensure_ascii=False)
        sys.stdout.write(escape_json(text) + "\n")
    else:
        render()
