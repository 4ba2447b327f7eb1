"""Report of a command of `ftcli delta`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Report:
    """Written folder, figures, and the next command."""

    folder: str
    bytes: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    then: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for --json."""
        return asdict(self)
