"""Conversations of every kind, in which each text is a unique word."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

_numbers = itertools.count(100)


def word(kind: str) -> str:
    """Return a text that no other message and no template contains."""
    return f"{kind}Zq{next(_numbers)}"


class Answer(NamedTuple):
    """Words of an assistant's turn, in order: of its thinking, its text, its calls."""

    thoughts: list[str]
    texts: list[str]
    calls: list[str]
    learn: bool = True


class Kind(NamedTuple):
    """A conversation, the words of the assistant's turns, and the words of the prompts."""

    messages: list[dict[str, Any]]
    answers: list[Answer]
    context: list[str]
    tools: list[dict[str, Any]] | None = None
    tool_words: tuple[str, ...] = ()


class Talk:
    """Builds a conversation message by message."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.answers: list[Answer] = []
        self.context: list[str] = []
        self.tools: list[dict[str, Any]] | None = None
        self.tool_words: tuple[str, ...] = ()

    def other(self, role: str = "user", before: str = "", after: str = "", **more: Any) -> Talk:
        text = word(role)
        self.context.append(text)
        self.messages.append({"role": role, "content": f"{before}{text}{after}", **more})
        return self

    def answer(self, content: Any = None, thoughts=(), texts=(), learn=True, **more: Any) -> Talk:
        if content is None:
            content = word("answer")
            texts = [content]
        calls = [w for call in more.get("tool_calls", ()) for w in call_words(call)]
        turn = {"role": "assistant", "content": content, **more}
        if not learn:
            turn["learn"] = False
        self.messages.append(turn)
        self.answers.append(Answer(list(thoughts), list(texts), calls, learn))
        return self

    def add_tools(self) -> Talk:
        names = [word("tool"), word("tool")]
        told = [word("about"), word("about")]
        keys = [word("key"), word("key")]
        self.tools = [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": text,
                    "parameters": {
                        "type": "object",
                        "properties": {key: {"type": "string", "description": "text"}},
                        "required": [key],
                    },
                },
            }
            for name, text, key in zip(names, told, keys, strict=True)
        ]
        self.tool_words = (*names, *told, *keys)
        return self

    def results(self, count: int = 1) -> Talk:
        for number in range(count):
            self.other("tool", tool_call_id=f"callabcd{number}", name=self.called(number))
        return self

    def called(self, number: int) -> str:
        last = next(m for m in reversed(self.messages) if m.get("tool_calls"))
        return str(last["tool_calls"][number]["function"]["name"])

    def call(self, arguments: Any = None) -> dict[str, Any]:
        number = len(self.messages)
        arguments = arguments or {word("key"): word("value"), word("key"): 31415926}
        name = self.tools[0]["function"]["name"] if self.tools else word("tool")
        return {
            "id": f"callabcd{number % 10}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }

    def kind(self) -> Kind:
        return Kind(self.messages, self.answers, self.context, self.tools, self.tool_words)


def call_words(call: dict[str, Any]) -> list[str]:
    """Return every word of a call's arguments."""

    def words(value: Any):
        if isinstance(value, dict):
            for key, item in value.items():
                yield key
                yield from words(item)
        elif isinstance(value, list):
            for item in value:
                yield from words(item)
        elif value is not None and not isinstance(value, bool):
            yield str(value)

    return list(words(call["function"]["arguments"]))


def think(text: str, thought: str) -> dict[str, Any]:
    return {
        "content": f"<think>\n{thought}\n</think>\n\n{text}",
        "thoughts": [thought],
        "texts": [text],
    }


def field(text: str, thought: str) -> dict[str, Any]:
    return {"content": text, "thoughts": [thought], "texts": [text], "reasoning_content": thought}


def everything() -> dict[str, Kind]:
    """Return every kind of conversation by name, with new words."""
    nested = {
        word("key"): {word("key"): [word("value"), 2718281, None, True]},
        word("key"): word("v"),
    }
    spaced = word("answer")
    first, second, middle = word("answer"), word("answer"), word("answer")
    three = [word("answer") for _ in range(3)]
    kinds = {
        "one turn": Talk().other().answer(),
        "several turns": Talk().other().answer().other().answer().other().answer(),
        "system": Talk().other("system").other().answer().other().answer(),
        "tools": _tools(Talk().add_tools().other()),
        "tools without call": Talk().add_tools().other("system").other().answer(),
        "call with text": _called(Talk().add_tools().other(), "text"),
        "call with null": _called(Talk().add_tools().other(), "null"),
        "call last": _last_call(Talk().add_tools().other()),
        "call after answer": _tools(Talk().add_tools().other().answer().other()),
        "answer after call": _tools(Talk().add_tools().other()).other().answer(),
        "parallel calls": _parallel(Talk().add_tools().other()),
        "nested arguments": _tools(Talk().add_tools().other(), nested),
        "call without arguments": _no_arguments(Talk().add_tools().other()),
        "thinking last": Talk().other().answer(**field(word("answer"), word("thought"))),
        "thinking earlier": Talk()
        .other()
        .answer(**field(word("answer"), word("thought")))
        .other()
        .answer(**field(word("answer"), word("thought"))),
        "think tags": Talk().other().answer(**think(word("answer"), word("thought"))),
        "think tags earlier": Talk()
        .other()
        .answer(**think(word("answer"), word("thought")))
        .other()
        .answer(),
        "thinking and call": _thinking_call(Talk().add_tools().other()),
        "assistant first": Talk().answer().other().answer(),
        "user last": Talk().other().answer().other(),
        "consecutive answers": Talk().other().answer().answer(),
        "white space": Talk().other("user", "\n ", "  ").answer(f"\n  {spaced} \n\n", texts=[spaced]),
        "parts": Talk()
        .other()
        .answer([{"type": "text", "text": first}, {"type": "text", "text": second}], texts=[first, second]),
        "not learned": Talk().other().answer(learn=False).other().answer(),
        "not learned last": Talk().other().answer().other().answer(learn=False),
        "unicode": Talk().other().answer(f"{three[0]} Grüße 🙂\n\n{three[1]}\t“{three[2]}”\n- a", texts=three),
        "blank in the middle": Talk().other().answer(middle + "\n\n" + middle[::-1], texts=[middle]),
    }  # fmt: skip
    return {name: talk.kind() for name, talk in kinds.items()}


def _tools(talk: Talk, arguments: Any = None) -> Talk:
    call = talk.call(arguments)
    return talk.answer("", tool_calls=[call]).results().answer()


def _called(talk: Talk, content: str) -> Talk:
    text = word("answer")
    beside: dict[str, Any] = {"content": text, "texts": [text]} if content == "text" else {}
    talk.answer(**{"content": "", **beside}, tool_calls=[talk.call()])
    if content == "null":
        talk.messages[-1]["content"] = None
    return talk.results().answer()


def _last_call(talk: Talk) -> Talk:
    return talk.answer("", tool_calls=[talk.call()])


def _parallel(talk: Talk) -> Talk:
    calls = [talk.call(), talk.call()]
    calls[1]["id"] = "callabcd1"
    return talk.answer("", tool_calls=calls).results(2).answer()


def _no_arguments(talk: Talk) -> Talk:
    call = talk.call()
    call["function"]["arguments"] = {}
    talk.answer("", tool_calls=[call])
    talk.answers[-1] = talk.answers[-1]._replace(calls=[call["function"]["name"]])
    return talk.results().answer()


def _thinking_call(talk: Talk) -> Talk:
    thought = word("thought")
    call = talk.call()
    talk.answer("", thoughts=[thought], reasoning_content=thought, tool_calls=[call])
    return talk.results().answer()
