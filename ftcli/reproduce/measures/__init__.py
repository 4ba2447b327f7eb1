"""Measurements that several recipes use; those of one paper are in `ftcli/papers/<paper>/measures.py`.

A measurement is a function decorated with `measure` that maps the folder of a run to a float. Claims name it
in their key `measure`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def measure(function: Any = None, *, exact: bool = False) -> Callable[..., Any]:
    """Mark a measurement; `ftcli.config.recipe` reads the mark from the source.

    Args:
        exact: whether neither seed nor rounding changes its value.
    """
    return function if function is not None else lambda marked: marked
