"""A prompt and the completion to learn, as text or as conversations."""

from __future__ import annotations

from typing import Any

from ftcli.data.conversation.exchange import build_exchange
from ftcli.data.rows import as_text

FIELDS = {
    "prompt": True, "completion": True, "system": False, "history": False, "tools": False,
    "label": False,
}  # fmt: skip
SYNONYMS = {
    "prompt": (
        "question", "query", "input", "source", "instruction", "context", "problem", "mr", "inputs",
    ),
    "completion": (
        "answer", "response", "output", "target", "solution", "label", "summary", "ref", "targets",
        "generation", "answers",
    ),
}  # fmt: skip
SURROUNDINGS = ("system", "history", "tools")


def example(fields: dict[str, Any]) -> dict[str, Any]:
    """Return {"prompt", "completion"}; {"messages"} for turns, a system message, a history or tools."""
    prompt, completion = fields.get("prompt"), fields.get("completion")
    if not isinstance(prompt, list):
        prompt = as_text(prompt, "prompt", empty=True)
    if not isinstance(completion, list):
        completion = as_text(completion, "completion")
    around = {name: fields[name] for name in SURROUNDINGS if name in fields}
    return build_exchange(prompt, completion, around)
