"""Preferences: a prompt with a chosen and a rejected answer, as text or as conversations."""

from __future__ import annotations

import json
from typing import Any

from ftcli.data.formats import as_text
from ftcli.data.formats.chat import message
from ftcli.data.rows import Unusable

FIELDS = {"prompt": False, "chosen": True, "rejected": True}
SYNONYMS = {
    "prompt": ("question", "query", "instruction", "input"),
    "chosen": ("preferred", "response_chosen", "winner", "better", "accepted"),
    "rejected": ("dispreferred", "response_rejected", "loser", "worse"),
}


def example(fields: dict[str, Any]) -> dict[str, Any]:
    """{"prompt", "chosen", "rejected"}: all text, or all lists of messages.

    Conversations without a prompt of their own have their common beginning as prompt.
    """
    prompt, chosen, rejected = (fields.get(f) for f in ("prompt", "chosen", "rejected"))
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _conversations(prompt, chosen, rejected)
    return {
        "prompt": as_text(prompt, "prompt"),
        "chosen": as_text(chosen, "chosen"),
        "rejected": as_text(rejected, "rejected"),
    }


def prompt_of(example: dict[str, Any]) -> str:
    """The prompt, as JSON where it is a conversation."""
    prompt = example["prompt"]
    return prompt if isinstance(prompt, str) else json.dumps(prompt, default=str)


def _conversations(prompt: Any, chosen: list[Any], rejected: list[Any]) -> dict[str, Any]:
    left = [message(turn, i) for i, turn in enumerate(chosen)]
    right = [message(turn, i) for i, turn in enumerate(rejected)]
    if isinstance(prompt, list):
        before = [message(turn, i) for i, turn in enumerate(prompt)]
    elif isinstance(prompt, str) and left and left[0]["role"] == "assistant":
        before = [{"role": "user", "content": prompt}]
    else:
        same = _common(left, right)
        before, left, right = left[:same], left[same:], right[same:]
    if not left or not right:
        raise Unusable("'chosen' and 'rejected' do not differ.")
    return {"prompt": before, "chosen": left, "rejected": right}


def _common(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count
