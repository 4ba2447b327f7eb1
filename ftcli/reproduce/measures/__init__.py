"""Measurements that several recipes use; those of one paper stand in `ftcli/papers/<paper>/measures.py`.

A measurement is a function marked by `measure`, from a run's folder to a float. Its name is what a claim's
`measure` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def measure(function: Any = None, *, exact: bool = False) -> Callable[..., Any]:
    """Mark a measurement; `ftcli.config.recipe` reads the mark from the source.

    Args:
        exact: no seed and no rounding moves its value.
    """
    return function if function is not None else lambda marked: marked
