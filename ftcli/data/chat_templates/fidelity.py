"""Compare a rendered conversation with its messages, and name each kind of difference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ftcli.data.chat_templates.dropped_content import BY_DESIGN, DROP_KINDS
from ftcli.data.chat_templates.messages import (
    MessageText,
    content_text,
    iterate_leaves,
    split_texts,
)
from ftcli.data.chat_templates.program import Messages, Span, TemplateProgram, Tools
from ftcli.data.chat_templates.traits import Traits

#: Fields of a tool's schema whose texts every template writes; types are often renamed.
DESCRIBED = ("description", "enum")


@dataclass(frozen=True)
class Turn:
    """Position of an assistant's turn in the text.

    Attributes:
        message: its number among the messages.
        spans: character ranges of what the assistant wrote; none where nothing was found.
        prompted: whether the text begins with the generation prompt for this turn.
    """

    message: int
    spans: tuple[Span, ...]
    prompted: bool

    @property
    def start(self) -> int:
        """Start of the first range; 0 where there is none."""
        return self.spans[0][0] if self.spans else 0

    @property
    def end(self) -> int:
        """End of the last range; 0 where there is none."""
        return self.spans[-1][1] if self.spans else 0

    def overlaps(self, span: Span) -> bool:
        """Whether a range and the turn share a character."""
        return span[0] < self.end and self.start < span[1]


@dataclass(frozen=True)
class DroppedContentFinder:
    """Searches a text for the content of its messages; the order of the messages bounds each search.

    Attributes:
        messages: the conversation that was rendered.
        tools: descriptions of the tools, as the template got them.
        text: what the template wrote.
        turns: positions of the assistant's turns in the text.
        program: the template.
        traits: how the template writes turns.
    """

    messages: Messages
    tools: Tools
    text: str
    turns: Sequence[Turn]
    program: TemplateProgram
    traits: Traits

    def find_dropped_content(self) -> tuple[str, ...]:
        """Return the kinds of dropped content, each once, in the order of `DROP_KINDS`."""
        kinds = set(self._find_kinds())
        return tuple(kind for kind in (*DROP_KINDS, *BY_DESIGN) if kind in kinds)

    @cached_property
    def _turn_of(self) -> dict[int, Turn]:
        """Assistant's turn by the number of its message."""
        return {turn.message: turn for turn in self.turns}

    def _find_kinds(self) -> Iterator[str]:
        at = 0  # end of the last match
        for number, message in enumerate(self.messages):
            if message["role"] == "assistant":
                yield from self._check_turn(number, message)
                at = max(at, self._turn_of[number].end)
                continue
            limit = self._next_start(number)
            outcome = self._find_context(message, at, limit)
            if isinstance(outcome, str):
                yield outcome
            else:
                at = max(at, outcome)
        yield from self._check_tools()

    def _next_start(self, number: int) -> int:
        starts = [t.start for t in self.turns if t.message > number and t.spans]
        return min(starts, default=len(self.text))

    def _find_context(self, message: Mapping[str, Any], at: int, limit: int) -> int | str:
        """Return where the text of a user's, system's or tool's message ends, or the kind of dropped content."""
        words = content_text(message.get("content")).strip()
        if not words:
            return at
        for written in _written_forms(words):
            start = self.text.find(written, at, limit)
            if start >= 0:
                return start + len(written)
        if message["role"] in ("system", "developer") and self._stands_outside(words):
            return at
        inside = any(words in self.text[a:b] for t in self.turns for a, b in t.spans)
        return "foreign_text" if inside else "lost_text"

    def _stands_outside(self, words: str) -> bool:
        """Whether a text stands anywhere outside the assistant's turns: some templates move system text."""
        at = self.text.find(words)
        while at >= 0:
            span = (at, at + len(words))
            if not any(a < span[1] and span[0] < b for t in self.turns for a, b in t.spans):
                return True
            at = self.text.find(words, at + 1)
        return False

    def _check_turn(self, number: int, message: Mapping[str, Any]) -> Iterator[str]:
        turn, words = self._turn_of[number], split_texts(message)
        calls = message.get("tool_calls") or ()
        written = "".join(self.text[start:end] for start, end in turn.spans)
        yield from self._check_texts(number, written, words)
        if not turn.spans:
            if calls:
                yield "lost_tool_call"
            if message.get("learn", True) and not (words or calls):
                yield "unlearned_turn"
            return
        if not all(self._check_calls(written, calls)):
            yield "lost_tool_call"
        if message.get("learn", True):
            if not written.endswith(self.traits.ends):
                yield "no_end"
            if turn.start == 0:  # nothing stands before its first token
                yield "unlearned_turn"
            if not turn.prompted:
                last = number == len(self.messages) - 1
                yield "unlike_prompt" if last else "earlier_prompt"
        if any(self.program.cuts_special(self.text, at) for span in turn.spans for at in span):
            yield "cut_special"

    def _check_texts(
        self, number: int, written: str, words: Sequence[MessageText]
    ) -> Iterator[str]:
        """Search thinking and text in order; each missing one is dropped content, and the search goes on behind it."""
        at = 0
        for text, thought in words:
            start = written.find(text, at)
            if start >= 0:
                at = start + len(text)
            else:
                yield self._classify_lost_thought(number, thought) if thought else "lost_text"

    def _classify_lost_thought(self, number: int, form: str) -> str:
        """Kind of dropped thinking: by design where the template shows it only in the last answer."""
        followed = any(m["role"] == "user" for m in self.messages[number + 1 :])
        return (
            "earlier_reasoning"
            if followed and form in self.traits.thinking_forms
            else "lost_reasoning"
        )

    def _check_calls(self, written: str, calls: Sequence[Mapping[str, Any]]) -> Iterator[bool]:
        """Whether each call is written: its name behind the previous call, its arguments behind its name."""
        at = 0
        for call in calls:
            function = call["function"]
            start = written.find(function["name"], at)
            yield start >= 0
            at = max(at, start + len(function["name"]))
            arguments = function.get("arguments") or {}
            yield all(
                _contains_argument(written, at, key, value)
                for key, value in dict(arguments).items()
            )

    def _check_tools(self) -> Iterator[str]:
        if not self.tools:
            return
        spans = [span for turn in self.turns for span in turn.spans]
        prompt = self.text[: spans[0][0]] if spans else self.text
        if not all(_contains(prompt, 0, text) for tool in self.tools for text in _tool_texts(tool)):
            yield "lost_tools"


def _contains_argument(written: str, at: int, key: str, value: Any) -> bool:
    """Whether an argument's name, and behind it every part of its value, is written, encoded once."""
    start = written.find(key, at)
    while start >= 0 and _is_encoded_twice(written, start, start + len(key)):
        start = written.find(key, start + 1)
    return start >= 0 and all(_contains(written, start, leaf) for leaf in iterate_leaves(value))


def _is_encoded_twice(written: str, start: int, end: int) -> bool:
    """Whether a name stands as JSON inside of JSON text, or as Python prints a mapping."""
    before, behind = written[max(0, start - 2) : start], written[end : end + 2]
    return (before == '\\"' and behind == '\\"') or (before[-1:] == "'" and behind == "':")


def _contains(written: str, at: int, leaf: Any) -> bool:
    return any(written.find(form, at) >= 0 for form in _written_forms(leaf))


def _written_forms(leaf: Any) -> tuple[str, ...]:
    """Forms in which a template may write a plain value: as it is, as JSON, as Python prints it."""
    if isinstance(leaf, str):
        text = leaf.strip()
        return text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]
    return json.dumps(leaf), str(leaf), str(leaf).lower()


def _tool_texts(tool: Mapping[str, Any]) -> Iterator[str]:
    """Name and description of a tool, and names and descriptions of its parameters."""
    function = tool.get("function", tool)
    yield function.get("name", "")
    yield function.get("description") or ""
    yield from _schema_texts(function.get("parameters") or {})


def _schema_texts(schema: Mapping[str, Any]) -> Iterator[str]:
    for name, parameter in (schema.get("properties") or {}).items():
        yield name
        if isinstance(parameter, Mapping):
            for key in DESCRIBED:
                yield from map(str, iterate_leaves(parameter.get(key) or ""))
            yield from _schema_texts(parameter)
            if isinstance(parameter.get("items"), Mapping):
                yield from _schema_texts(parameter["items"])
