"""A prompt and the completion to learn."""

from __future__ import annotations

from typing import Any

from ftcli.data.formats import as_text

FIELDS = {"prompt": True, "completion": True}
SYNONYMS = {
    "prompt": ("question", "query", "input", "source", "instruction", "context", "problem", "mr"),
    "completion": ("answer", "response", "output", "target", "solution", "label", "summary", "ref"),
}


def example(fields: dict[str, Any]) -> dict[str, Any]:
    """{"prompt", "completion"}."""
    return {
        "prompt": as_text(fields.get("prompt"), "prompt", empty=True),
        "completion": as_text(fields.get("completion"), "completion"),
    }


def prompt_of(example: dict[str, Any]) -> str:
    """The prompt itself."""
    return str(example["prompt"])
