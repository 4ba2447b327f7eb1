"""Printing for people (rich) or for programs (JSON): the two faces of every reading verb."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console(stderr: bool = False) -> Console:
    """The process's rich console; rich itself honours NO_COLOR and plain pipes.

    Where no terminal reads, lines are never wrapped: a log or a pipe wants them whole.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Console(stderr=stderr, highlight=False)
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=1000)


#: What a terminal obeys rather than shows (C0 and C1 controls, marks that turn text around), and how it
#: is written instead. Tabs and line breaks stay.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))} | {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}

#: The same in JSON, which has written C0 controls so itself.
_IN_JSON = {code: f"\\u{code:04x}" for code in _CONTROLS if code > 31}


def printable(text: str) -> str:
    """Text of a stranger for a screen: control characters as they would be typed (`\\x1b`)."""
    return text.translate(_CONTROLS)


def emit(data: Any, as_json: bool, render: Callable[[], None]) -> None:
    """Print `data` as JSON when asked to, otherwise let `render` draw it."""
    if as_json:
        text = json.dumps(data, indent=2, default=str, ensure_ascii=False)
        sys.stdout.write(text.translate(_IN_JSON) + "\n")
    else:
        render()
