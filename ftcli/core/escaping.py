"""Text of a stranger where it is read: on a terminal, in JSON, in Markdown. Nothing in it acts."""

from __future__ import annotations

#: What a terminal obeys rather than shows (C0 and C1 controls, marks that turn text around), and how it
#: is written instead. Tabs and line breaks stay.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))} | {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
#: The same in JSON, which has written C0 controls so itself.
_IN_JSON = {code: f"\\u{code:04x}" for code in _CONTROLS if code > 31}


def escape_controls(text: str) -> str:
    """For a screen: control characters as they would be typed (`\\x1b`)."""
    return text.translate(_CONTROLS)


def escape_json(text: str) -> str:
    """For JSON that was written already: what is left of them as its own escapes."""
    return text.translate(_IN_JSON)


def escape_markdown(text: str) -> str:
    """For Markdown: no HTML, and no picture that a viewer would fetch."""
    return text.replace("<", "&lt;").replace("![", "!\\[")
