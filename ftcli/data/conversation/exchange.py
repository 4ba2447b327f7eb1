"""Build examples from a prompt and its answer, with system message, history and tools."""

from __future__ import annotations

import json
from typing import Any

from ftcli.data.conversation.tools import is_calls, parse_json, parse_tool_calls, parse_tools
from ftcli.data.conversation.turns import parse_conversation
from ftcli.data.rows import RowError, as_text

Messages = list[dict[str, Any]]


def build_exchange(prompt: Any, completion: Any, surroundings: dict[str, Any]) -> dict[str, Any]:
    """Build the canonical example of a prompt and the answer to learn.

    Args:
        prompt: text, or turns.
        completion: text, turns, or beside tools a JSON list of calls.
        surroundings: `system`, `history`, `tools`. A row that has one of these becomes a conversation,
            even where it is empty.

    Raises:
        RowError: a value of the wrong kind.
    """
    prompt, completion = _parse_turns(prompt, "prompt"), _parse_turns(completion, "completion")
    texts = isinstance(prompt, str) and isinstance(completion, str)
    if texts and not surroundings:
        return {"prompt": prompt, "completion": completion}
    before = [
        {**m, "learn": False} if m["role"] == "assistant" else m
        for m in prompt_messages(prompt, surroundings)
    ]
    example = add_tools(before, surroundings)
    answer = completion if isinstance(completion, list) else [_answer(completion, example)]
    return example | {"messages": [*before, *strip_prompt(answer, before)]}


def prompt_messages(prompt: Any, surroundings: dict[str, Any]) -> Messages:
    """Return system message, history and prompt as messages."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    history = _history(surroundings.get("history"))
    return add_system([*history, *turns], surroundings.get("system"))


def strip_prompt(answer: Messages, prompt: Messages) -> Messages:
    """Return the answer without the prompt's messages, where it begins with all of them.

    Raises:
        RowError: it repeats the conversation and adds nothing.
    """
    head = [message_key(message) for message in prompt]
    bare = head[1:] if head and head[0][0] == "system" else head
    for start in (head, bare):
        count = len(start)
        if start and [message_key(message) for message in answer[:count]] == start:
            if len(answer) == count:
                raise RowError("has an answer that only repeats the prompt.", "empty")
            return answer[count:]
    return answer


def add_system(messages: Messages, system: Any) -> Messages:
    """Put the text of the `system` column in front of the messages.

    Raises:
        RowError: they begin with another system message.
    """
    text = "" if system is None else as_text(system, "system", empty=True)
    if not text.strip():
        return messages
    first = messages[0] if messages else {"role": ""}
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": text}, *messages]
    if first["content"].strip() != text.strip():
        raise RowError(
            "has a system message and a column 'system', and they differ; data.columns.system=null leaves "
            "the column out."
        )
    return messages


def add_tools(messages: Messages, surroundings: dict[str, Any]) -> dict[str, Any]:
    """Return {"messages"}, with "tools" unless the system message lists all of them (Hermes)."""
    tools = parse_tools(surroundings.get("tools"))
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
    names = [tool["function"]["name"] for tool in tools]
    written = "<tools>" in system and all(json.dumps(name) in system for name in names)
    return {"messages": messages} | ({"tools": tools} if tools and not written else {})


def extract_prompt(example: dict[str, Any]) -> str:
    """Return the prompt of an example as text, by which rows are assigned to splits.

    For a conversation it is the messages before the first learned answer, or all of them when an
    answer comes first. For plain text it is the text, so that copies of it stay in one split.
    """
    if "messages" not in example:
        asked = example["prompt"] if "prompt" in example else example["text"]
        return asked if isinstance(asked, str) else json.dumps(asked, default=str)
    messages = example["messages"]
    answers = (
        i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("learn", True)
    )
    first = next(answers, len(messages))
    return json.dumps([message_key(m) for m in messages[:first] or messages], default=str)


def message_key(message: dict[str, Any]) -> list[Any]:
    """Return what messages are compared by: role, content, and the calls where there are any."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return [message["role"], message["content"], *([calls] if calls else [])]


def _parse_turns(value: Any, field: str) -> Any:
    return parse_conversation(value, field) if isinstance(value, list) else value


def _answer(completion: str, example: dict[str, Any]) -> dict[str, Any]:
    if example.get("tools") and is_calls(completion):
        calls = parse_tool_calls(completion, "the answer")
        return {"role": "assistant", "content": "", "tool_calls": calls}
    return {"role": "assistant", "content": completion}


def _history(value: Any) -> Messages:
    """Parse earlier exchanges: pairs of question and answer (Alpaca), or turns."""
    pairs = parse_json(value or [], "'history'") or []
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        return parse_conversation(pairs, "history")
    texts = [as_text(text, "history") for pair in pairs for text in pair]
    return parse_conversation(texts, "history") if texts else []
