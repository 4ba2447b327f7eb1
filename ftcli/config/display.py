"""A composed job as YAML, with who set each value beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ftcli.config.composed import Composed

#: Comments stand in one column, unless a value is longer than this.
WIDEST = 56


def annotated(composed: Composed) -> str:
    """YAML that composes to the same job; each leaf ends in `# file:line` or `# command line`."""
    lines = list(_lines(composed, composed.config, "", 0))
    column = min(WIDEST, max((len(text) for text, origin in lines if origin), default=0))
    return "\n".join(
        f"{text.ljust(column)}  # {origin}" if origin else text for text, origin in lines
    )


def _lines(
    composed: Composed, node: Mapping[str, Any], prefix: str, depth: int
) -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        start = f"{'  ' * depth}{scalar(name)}:"
        if isinstance(value, Mapping) and value:
            yield start, ""
            yield from _lines(composed, value, key, depth + 1)
        else:
            yield f"{start} {scalar(value)}", composed.where(key)


def scalar(value: Any) -> str:
    """A value in one line of YAML; small numbers as people write them (0.0001, 1e-05)."""
    if isinstance(value, float):
        return _number(value)
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _number(value: float) -> str:
    text = repr(value)
    if "e" in text and "." not in text:  # YAML 1.1 wants the point: 1.0e-05
        text = text.replace("e", ".0e")
    return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(text, text)
