"""Convert turns of a conversation, in any dialect, to canonical messages."""

from __future__ import annotations

from typing import Any

from ftcli.data.conversation.learning import take_learn_flag
from ftcli.data.conversation.tools import parse_tool_calls
from ftcli.data.rows import RowError, as_text, shorten

KNOWN = ("system", "developer", "user", "assistant", "tool")
ROLES = {
    **{role: role for role in KNOWN},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(
        ("gpt", "bot", "model", "chatgpt", "chatbot", "ai", "bard", "bing"), "assistant"
    ),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "assistant"),
    **dict.fromkeys(("observation", "function_response", "tool_response", "function"), "tool"),
}
#: Roles whose content is not text but the calls themselves.
CALLERS = ("function_call", "tool_call", "tool_calls")
CONTENT = ("content", "value", "text")
REASONING = ("reasoning_content", "reasoning", "thinking")
TEXT_PARTS = ("text", "input_text", "output_text")
THOUGHT_PARTS = ("thinking", "reasoning")


def parse_conversation(turns: Any, field: str) -> list[dict[str, Any]]:
    """Convert a list of turns to messages.

    Turns that are bare texts alternate between user and assistant (LIMA); a turn of `input` and
    `output` is two messages (Capybara).

    Raises:
        RowError: the value is not a list of turns, is empty, or a turn is invalid.
    """
    if not isinstance(turns, list):
        raise RowError(f"'{field}' is not a list of turns.")
    if not turns:
        raise RowError(f"'{field}' has no turn.", "empty")
    if len(turns) > 1 and all(isinstance(turn, str) for turn in turns):
        sides = ("user", "assistant")
        turns = [{"role": sides[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return [message for i, turn in enumerate(turns) for message in _messages(turn, i)]


def _messages(turn: Any, number: int) -> list[dict[str, Any]]:
    if not isinstance(turn, dict):
        raise RowError(f"turn {number} is not a mapping of role and content.")
    if set(turn) == {"input", "output"}:
        sides = (("user", turn["input"]), ("assistant", turn["output"]))
        return [{"role": r, "content": as_text(v, f"turn {number}")} for r, v in sides]
    return [_message({key: value for key, value in turn.items() if value is not None}, number)]


def _message(turn: dict[str, Any], number: int) -> dict[str, Any]:
    speaker = turn.pop("role", None) or turn.pop("from", None)
    word = str(speaker).lower().replace("-", "_")
    role = ROLES.get(word)
    if role is None:
        raise RowError(
            f"turn {number} has the role {shorten(speaker)}, expected one of {', '.join(KNOWN)}."
        )
    learn = take_learn_flag(turn, role, number)
    content = _take_content(turn, number)
    calls = _take_calls(turn, number)
    if word in CALLERS:
        calls, content = parse_tool_calls(content, f"turn {number}"), None
    content, thoughts = _texts(content, number)
    reasoning = _take_reasoning(turn, thoughts, number)
    if content is None and not calls and not reasoning:
        as_text(
            content, f"content of turn {number}"
        )  # null: raises the same error as for any other field
    message = {"role": role, "content": content or "", **turn}
    message |= {"reasoning_content": reasoning} if reasoning else {}
    message |= {"tool_calls": calls} if calls else {}
    return message | ({"learn": False} if learn is False and role == "assistant" else {})


def _take_content(turn: dict[str, Any], number: int) -> Any:
    """Remove and return the content of a turn; ShareGPT calls it `value`."""
    key = next((key for key in CONTENT if key in turn), None)
    content = turn.pop(key) if key else None
    if "value" in turn and turn.pop("value") != content:
        raise RowError(f"turn {number} has 'content' and 'value', and they differ.")
    return content


def _take_calls(turn: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Remove and parse the calls under `tool_calls`, or `function_call`, OpenAI's earlier key."""
    where = f"turn {number}"
    values = [value for key in ("tool_calls", "function_call") if (value := turn.pop(key, None))]
    return [call for value in values for call in parse_tool_calls(value, where)]


def _texts(content: Any, number: int) -> tuple[str | None, str]:
    """Return (text, thinking) of a content that is a text or a list of parts."""
    if content is None:
        return None, ""
    if not isinstance(content, list):
        return as_text(content, f"content of turn {number}", empty=True), ""
    name = f"a part of turn {number}"
    texts, thoughts = [], []
    for part in content:
        part = {"text": part} if isinstance(part, str) else part
        kind = part.get("type") or "text" if isinstance(part, dict) else None
        if kind in THOUGHT_PARTS:
            thoughts.append(as_text(part.get(kind) or part.get("text"), name, empty=True))
        elif kind in TEXT_PARTS and "text" in part:
            texts.append(as_text(part["text"], name, empty=True))
        else:
            raise RowError(f"turn {number} holds a part that is not text: {shorten(part)}.")
    return "".join(texts), "".join(thoughts)


def _take_reasoning(turn: dict[str, Any], thoughts: str, number: int) -> str:
    values = [turn.pop(key) for key in REASONING if isinstance(turn.get(key), str)]
    texts = list(dict.fromkeys(text for text in [*values, thoughts] if text))
    if len(texts) > 1:
        raise RowError(f"turn {number} has two reasonings, and they differ.")
    return texts[0] if texts else ""
