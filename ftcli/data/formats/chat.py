"""Conversations: `messages` of role and content, or ShareGPT's `conversations` of from and value."""

from __future__ import annotations

import json
from typing import Any

from ftcli.data import strict_json
from ftcli.data.formats import as_text
from ftcli.data.rows import Unusable, brief

FIELDS = {"messages": True, "tools": False}
SYNONYMS = {"messages": ("conversations", "conversation", "dialog", "dialogue", "turns", "chat")}
#: Found without being mapped, because it can mean nothing else.
DEFAULTS = {"messages": ("messages", "conversations")}
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
}
KNOWN = ("system", "developer", "user", "assistant", "tool")


def example(fields: dict[str, Any]) -> dict[str, Any]:
    """{"messages": [{"role", "content", ...}]}, also "tools" where the row has them."""
    turns = _parsed(fields.get("messages"), "messages")
    if turns == []:
        raise Unusable("'messages' has no turn.", "empty")
    if not isinstance(turns, list):
        raise Unusable("'messages' is not a list of turns.")
    found: dict[str, Any] = {"messages": [message(turn, i) for i, turn in enumerate(turns)]}
    if fields.get("tools"):
        found["tools"] = _parsed(fields["tools"], "tools")
    return found


def message(turn: Any, number: int) -> dict[str, Any]:
    """One turn with the standard role names; keys besides role and content are kept."""
    if not isinstance(turn, dict):
        raise Unusable(f"turn {number} is not a mapping of role and content.")
    turn = {key: value for key, value in turn.items() if value is not None}
    role = turn.pop("role", None) or turn.pop("from", None)
    role = ROLES.get(str(role), role)
    if role not in KNOWN:
        raise Unusable(
            f"turn {number} has the role {brief(role)}, expected one of {', '.join(KNOWN)}."
        )
    content = turn.pop("content", None)
    content = turn.pop("value", None) if content is None else content
    if content is None and turn.get("tool_calls"):
        content = ""
    return {"role": role, "content": _content(content, number), **turn}


def prompt_of(example: dict[str, Any]) -> str:
    """What stands before the first answer; the whole when an answer comes first."""
    messages = example["messages"]
    first = next((i for i, m in enumerate(messages) if m["role"] == "assistant"), len(messages))
    return json.dumps([[m["role"], m["content"]] for m in messages[:first] or messages])


def _content(content: Any, number: int) -> str:
    """Text, also from a list of parts that are all text."""
    if isinstance(content, list):
        if not all(isinstance(part, dict) and "text" in part for part in content):
            raise Unusable(f"turn {number} holds parts that are not text.")
        name = f"a part of turn {number}"
        content = "".join(as_text(part["text"], name, empty=True) for part in content)
    return as_text(content, f"content of turn {number}", empty=True)


def _parsed(value: Any, field: str) -> Any:
    """CSV and some hub sets hold conversations as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return strict_json.load(value)
    except ValueError as error:
        raise Unusable(f"'{field}' is text that {error}", "broken") from error
