"""Alpaca rows: an instruction, optionally with an input it applies to, and the output to learn."""

from __future__ import annotations

from typing import Any

from ftcli.data.formats import as_text

FIELDS = {"instruction": True, "input": False, "output": True}
SYNONYMS = {
    "instruction": ("question", "prompt", "query", "task", "problem"),
    "input": ("context", "passage"),
    "output": ("answer", "response", "completion", "target", "solution"),
}


def example(fields: dict[str, Any]) -> dict[str, Any]:
    """{"prompt", "completion"}; an input follows its instruction after a blank line."""
    instruction = as_text(fields.get("instruction"), "instruction")
    given = fields.get("input")
    given = "" if given is None else as_text(given, "input", empty=True)
    return {
        "prompt": f"{instruction}\n\n{given}" if given.strip() else instruction,
        "completion": as_text(fields.get("output"), "output"),
    }


def prompt_of(example: dict[str, Any]) -> str:
    """Instruction and input."""
    return str(example["prompt"])
