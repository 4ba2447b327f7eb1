"""What keys of different groups mean together: small functions, each naming one contradiction."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ftcli.config import requirements
from ftcli.config.composed import Composed
from ftcli.errors import UserError

Check = Callable[[Composed], Iterator[UserError]]
CHECKS: list[Check] = []


def problems(composed: Composed) -> list[UserError]:
    """All contradictions of a job whose single values are sound."""
    found = requirements.problems(composed)
    for check in CHECKS:
        found += check(composed)
    return found
