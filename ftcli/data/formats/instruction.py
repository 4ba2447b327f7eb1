"""Alpaca rows: an instruction, optionally with an input it applies to, and the output to learn."""

from __future__ import annotations

from typing import Any

from ftcli.data.conversation.exchange import build_exchange
from ftcli.data.rows import as_text

FIELDS = {
    "instruction": True, "input": False, "output": True, "system": False, "history": False,
    "tools": False, "label": False,
}  # fmt: skip
SYNONYMS = {
    "instruction": ("question", "prompt", "query", "task", "problem", "inputs"),
    "input": ("context", "passage"),
    "output": (
        "answer", "response", "completion", "target", "solution", "generation", "targets", "answers",
    ),
}  # fmt: skip
DEFAULTS = {"input": ("input", "context")}
SURROUNDINGS = ("system", "history", "tools")


def example(fields: dict[str, Any]) -> dict[str, Any]:
    """Return {"prompt", "completion"}, or {"messages"} with a system message, a history or tools.

    An input follows its instruction after a blank line.
    """
    instruction = as_text(fields.get("instruction"), "instruction")
    applied = fields.get("input")
    applied = "" if applied is None else as_text(applied, "input", empty=True)
    prompt = f"{instruction}\n\n{applied}" if applied.strip() else instruction
    around = {name: fields[name] for name in SURROUNDINGS if name in fields}
    return build_exchange(prompt, as_text(fields.get("output"), "output"), around)
