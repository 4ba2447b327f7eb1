"""Convert canonical messages to the form that a template reads; split a message into its texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

THINK = re.compile(r"(</?think>)")
LENGTH = 8  # characters of a stand-in


def adapt_messages(
    messages: Sequence[Mapping[str, Any]],
    parts: bool,
    arguments: str = "object",
    ending: str = "",
    ends_last: bool = True,
) -> list[dict[str, Any]]:
    """Convert canonical messages to the form that a template reads.

    Args:
        parts: write content as a list of parts instead of text.
        arguments: write the arguments of tool calls as an `object` or as its JSON `text`.
        ending: token to append to each answer, except the last where `ends_last`.
        ends_last: the template itself writes an end behind the last answer.
    """
    adapted = []
    for number, message in enumerate(messages):
        turn = {key: value for key, value in message.items() if key != "learn"}
        text = content_text(turn.get("content"))
        ends = ends_last and number == len(messages) - 1
        if turn["role"] == "assistant" and not ends and not turn.get("tool_calls"):
            text += ending
        turn["content"] = [{"type": "text", "text": text}] if parts else text
        if turn.get("tool_calls") and arguments == "text":
            turn["tool_calls"] = [_encode_arguments(call) for call in turn["tool_calls"]]
        adapted.append(turn)
    return adapted


def content_text(content: Any) -> str:
    """Return a message's content as text: empty for null, the joined texts for a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content or ""


class MessageText(NamedTuple):
    """A stripped text of an assistant's message; `thought` says where thinking stood: `field` or `tags`."""

    text: str
    thought: Literal["", "field", "tags"]


def split_texts(message: Mapping[str, Any]) -> list[MessageText]:
    """Split an assistant's message into thinking and text, in order.

    Thinking is `reasoning_content`, and text inside <think> tags.
    """
    texts = [MessageText(str(message.get("reasoning_content") or "").strip(), "field")]
    pieces = THINK.split(content_text(message.get("content")))
    for number in range(0, len(pieces), 2):
        opened = number > 0 and pieces[number - 1] == "<think>"
        closes = number + 1 < len(pieces) and pieces[number + 1] == "</think>"
        texts.append(MessageText(pieces[number].strip(), "tags" if opened or closes else ""))
    return [part for part in texts if part.text]


def iterate_leaves(value: Any) -> Iterator[Any]:
    """Yield the keys and plain values of nested data, each key before its value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from iterate_leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from iterate_leaves(item)
    else:
        yield value


def has_content(message: Mapping[str, Any]) -> bool:
    """Whether a message has text, thinking or a tool call."""
    return bool(split_texts(message) or message.get("tool_calls"))


def make_stand_in(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message of the same shape in which every text is replaced.

    No text of the stand-in begins or ends with the same letter as a text of the message. So the
    renderings of both differ exactly from where a text begins to where it ends.
    """
    text = _choose_letter(message) * LENGTH
    other = dict(message)
    other["content"] = _replace_texts(message["content"], text)
    if message.get("reasoning_content"):
        other["reasoning_content"] = text
    if message.get("tool_calls"):
        other["tool_calls"] = [_replace_arguments(call, text) for call in message["tool_calls"]]
    if other == message:
        other["content"] = [{"type": "text", "text": text}] if message["content"] == [] else text
    return other


def _choose_letter(message: Mapping[str, Any]) -> str:
    """Choose a letter with which no text of the message begins or ends."""
    texts = [piece.strip() for leaf in iterate_leaves(message) for piece in THINK.split(str(leaf))]
    edges = {text[at] for text in texts if text for at in (0, -1)}
    return next(letter for letter in map(chr, range(ord("A"), 1 << 16)) if letter not in edges)


def _replace_texts(content: Any, text: str) -> Any:
    if isinstance(content, list):
        return [{**part, "text": _replace_texts(part["text"], text)} for part in content]
    pieces = THINK.split(content)
    return "".join(p if number % 2 or not p.strip() else text for number, p in enumerate(pieces))


def _replace_arguments(call: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Replace the arguments of a call; its name only where it has none, since tool results repeat the name."""
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        function["arguments"] = json.dumps(_replace_values(json.loads(arguments), text))
    elif arguments:
        function["arguments"] = _replace_values(arguments, text)
    if function == call["function"]:
        function["name"] = text
    return {**call, "function": function}


def _replace_values(value: Any, text: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _replace_values(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_values(item, text) for item in value]
    return text


def _encode_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    if not isinstance(function.get("arguments"), str):
        function["arguments"] = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    return {**call, "function": function}
