"""Conversations: `messages` of role and content, or ShareGPT's `conversations` of from and value."""

from __future__ import annotations

from typing import Any

from ftcli.data.conversation.exchange import add_system, add_tools
from ftcli.data.conversation.tools import parse_json
from ftcli.data.conversation.turns import parse_conversation

FIELDS = {"messages": True, "system": False, "tools": False, "label": False}
SYNONYMS = {
    "messages": ("conversations", "conversation", "dialog", "dialogue", "turns", "chat", "data")
}
DEFAULTS = {"messages": ("messages", "conversations")}


def example(fields: dict[str, Any]) -> dict[str, Any]:
    """Return {"messages"}, with "tools" where the row has them."""
    messages = parse_conversation(parse_json(fields.get("messages"), "'messages'"), "messages")
    return add_tools(add_system(messages, fields.get("system")), fields)
