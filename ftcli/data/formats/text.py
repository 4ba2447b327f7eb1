"""Plain text: every token is learned."""

from __future__ import annotations

from typing import Any

from ftcli.data.rows import as_text

FIELDS = {"text": True}
SYNONYMS = {"text": ("content", "document", "body", "article", "sentence")}


def example(fields: dict[str, Any]) -> dict[str, Any]:
    """Return {"text"}."""
    return {"text": as_text(fields.get("text"), "text")}
