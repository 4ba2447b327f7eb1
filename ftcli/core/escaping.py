"""Escaping of untrusted text for a terminal, JSON and Markdown, where it must not act."""

from __future__ import annotations

#: Characters that a terminal obeys rather than shows (C0 and C1 controls, marks of text direction), and
#: how each is written instead. Tabs and line breaks stay.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))} | {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
#: The same for JSON, whose writer has escaped the C0 controls.
_IN_JSON = {code: f"\\u{code:04x}" for code in _CONTROLS if code > 31}


def escape_controls(text: str) -> str:
    """Return the text for a terminal, with control characters written out (`\\x1b`)."""
    return text.translate(_CONTROLS)


def escape_json(text: str) -> str:
    """Return a JSON text with the control characters that its writer has left as JSON escapes."""
    return text.translate(_IN_JSON)


def escape_markdown(text: str) -> str:
    """Return the text for Markdown, without HTML and without pictures that a viewer would fetch."""
    return text.replace("<", "&lt;").replace("![", "!\\[")
