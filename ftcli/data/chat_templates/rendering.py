"""Render a conversation and find where each of the assistant's turns stands in the text.

Templates with `{% generation %}` markers tell what the assistant wrote. With all others the
conversation is rendered up to each answer and through it; the difference is what the assistant wrote.
A template that renders a turn differently once others follow (Qwen3 drops earlier thinking, gpt-oss
ends the last answer with another token) has no such prefix; there each turn is found by rendering
another of the same shape in its place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ftcli.data.chat_templates.fidelity import DroppedContentFinder, Turn
from ftcli.data.chat_templates.messages import (
    adapt_messages,
    content_text,
    has_content,
    make_stand_in,
)
from ftcli.data.chat_templates.program import Messages, Span, TemplateProgram, Tools
from ftcli.data.chat_templates.traits import Traits

COMPARED = 8  # characters by which the end of a generation prompt is recognised


class Conversation(NamedTuple):
    """A rendered conversation.

    Attributes:
        text: the whole text.
        learned: character ranges of the assistant's turns that are learned, each with its end token.
        excluded: ranges of the assistant's turns that the data exclude from learning.
        dropped_content: kinds of content that the template drops; see `ftcli.data.chat_templates.dropped_content`.
    """

    text: str
    learned: tuple[Span, ...]
    excluded: tuple[Span, ...]
    dropped_content: tuple[str, ...]


def prepare_messages(messages: Messages, traits: Traits, followed: bool) -> list[dict[str, Any]]:
    """Convert messages to the form that the template reads; `followed`: an answer will follow the last one."""
    form, ends_last = traits.arguments or "object", traits.ends_last and not followed
    return adapt_messages(messages, traits.needs_parts, form, traits.ending, ends_last)


class RenderedConversation:
    """Renders one conversation and finds its turns.

    Raises:
        RowError: the template refuses it.
    """

    def __init__(
        self, program: TemplateProgram, traits: Traits, messages: Messages, tools: Tools
    ) -> None:
        self.program, self.traits, self.tools = program, traits, tools
        self.messages = messages
        self.turns = prepare_messages(messages, traits, followed=False)

    def render(self) -> Conversation:
        """Return the text, the ranges of the assistant's turns, and the kinds of dropped content."""
        marks: list[Span] | None = None
        if self.program.has_markers:
            self.text, marks = self.program.render_marked(self.turns, self.tools)
            marks = [self._narrow(*span) for span in marks if span[0] < span[1]]
        else:
            self.text = self.program.render(self.turns, self.tools)
        numbers = [i for i, turn in enumerate(self.turns) if turn["role"] == "assistant"]
        turns = (
            self._find_by_markers(numbers, marks)
            if marks is not None
            else self._find_by_rendering(numbers)
        )
        self._append_end(turns)
        spans = {turn.message: turn.spans for turn in turns}
        learned: list[Span] = []
        excluded: list[Span] = []
        for number, parts in spans.items():
            (learned if self._learns(number) else excluded).extend(parts)
        finder = DroppedContentFinder(
            self.messages, self.tools, self.text, turns, self.program, self.traits
        )
        return Conversation(
            self.text, tuple(learned), tuple(excluded), finder.find_dropped_content()
        )

    def _learns(self, number: int) -> bool:
        return bool(self.messages[number].get("learn", True))

    def _find_by_markers(self, numbers: Sequence[int], marks: Sequence[Span]) -> list[Turn]:
        """Find the turns by the template's markers; where the counts differ, assign markers to turns by position."""
        if len(marks) == len(numbers):
            turns = [Turn(i, (span,), True) for i, span in zip(numbers, marks, strict=True)]
        else:
            turns = [
                replace(turn, spans=tuple(m for m in marks if turn.overlaps(m)))
                for turn in self._find_by_rendering(numbers)
            ]
        last = turns[-1]
        if last.spans and not self._follows_opening(last.spans[0][0]):
            before = self.program.try_render(self.turns[: last.message], self.tools, prompt=True)
            turns[-1] = replace(last, prompted=before is None or self.text.startswith(before))
        return turns

    def _narrow(self, start: int, end: int) -> Span:
        """Trim the generation prompt and the white space behind the end token from a marked range."""
        opening = self.traits.opening
        start += len(opening) if opening and self.text.startswith(opening, start, end) else 0
        return start, self._include_end(start, self._trim_break(start, end))

    def _follows_opening(self, start: int) -> bool:
        opening = self.traits.opening
        return bool(opening) and self.text.endswith(opening, 0, start)

    def _find_by_rendering(self, numbers: Sequence[int]) -> list[Turn]:
        turns: list[Turn] = []
        low = 0
        for number in numbers:
            turn = self._find_turn(number, low)
            turns.append(turn)
            low = turn.end or low
        return turns

    def _find_turn(self, number: int, low: int) -> Turn:
        """Find the range of a turn, with the token that ends it."""
        last = number == len(self.turns) - 1
        before = self._render_first(number, prompt=True)
        through = self.text if last else self._render_first(number + 1)
        prompted = before is None or self.text.startswith(before)
        if before and through and self.text.startswith(through) and through.startswith(before):
            start, end = len(before), self._trim_break(len(before), len(through))
            end = self._include_end(start, end)
        else:
            start, end = self._find_by_stand_in(number, low, before)
            if before is None:
                prompted = self._follows_opening(start) or not self.turns[:number]
        return Turn(number, ((start, end),) if start < end else (), prompted)

    def _render_first(self, count: int, prompt: bool = False) -> str | None:
        """Render the first messages alone; None when the template refuses them, as some do without a user."""
        return self.program.try_render(self.turns[:count], self.tools, prompt)

    def _find_by_stand_in(self, number: int, low: int, before: str | None) -> Span:
        """Find the turn by what changes when a stand-in of the same shape replaces it."""
        other = [*self.turns]
        other[number] = make_stand_in(self.turns[number])
        text = self.program.try_render(other, self.tools) or ""
        first = len(os.path.commonprefix([text, self.text]))
        tail = os.path.commonprefix([text[first:][::-1], self.text[first:][::-1]])
        last = len(self.text) - len(tail)
        if not text or text == self.text:
            return 0, 0
        if not has_content(self.messages[number]):
            last = first
        return self._find_start(low, first, before), self._find_end(number, last)

    def _find_start(self, low: int, first: int, before: str | None) -> int:
        """Position where the generation prompt in front of a turn's text ends."""
        if before and self.text.startswith(before) and low <= len(before) <= first:
            return len(before)
        for end in range(first, low + COMPARED - 1, -1) if before else ():
            if before is not None and before.endswith(self.text[end - COMPARED : end]):
                return end
        opening = self.traits.opening
        for length in range(len(opening), 0, -1):
            at = self.text.rfind(opening[:length], low, first)
            if at >= 0 and not self.program.cuts_special(self.text, at + length):
                return at + length
        return first

    def _find_end(self, number: int, last: int) -> int:
        """Position behind the first end token that stands before the next message's text."""
        limit = len(self.text)
        if number + 1 < len(self.turns):
            following = content_text(self.messages[number + 1].get("content")).strip()
            at = self.text.find(following, last) if following else -1
            limit = at if at >= 0 else limit
        ends = [
            (at, at + len(end))
            for end in self.traits.ends
            if (at := self.text.find(end, last, limit)) >= 0
        ]
        return min(ends)[1] if ends else self._trim_break(0, last)

    def _trim_break(self, start: int, end: int) -> int:
        """Exclude the line break that many templates put behind the end-of-turn token."""
        turn = self.text[start:end].rstrip()
        return start + len(turn) if turn.endswith(self.program.specials) else end

    def _include_end(self, start: int, end: int) -> int:
        """Move the end of a turn behind its end token, where that is not the last thing the turn adds."""
        if not self.traits.ends or self.text[start:end].endswith(self.traits.ends):
            return end
        written = self.text.rfind(self.traits.ending, start, end) if self.traits.ending else -1
        if written >= 0:
            return written + len(self.traits.ending)
        behind = self.text[end:]
        blank = len(behind) - len(behind.lstrip())
        token = next((t for t in self.traits.ends if behind.startswith(t, blank)), "")
        return end + blank + len(token) if token else end

    def _append_end(self, turns: list[Turn]) -> None:
        """Append an end token to the last turn where the template writes none."""
        last = turns[-1]
        if last.message != len(self.turns) - 1 or not last.spans:
            return
        calls = bool(self.turns[last.message].get("tool_calls"))
        token = self.traits.call_closing if calls else self.traits.closing
        if not token or self.text[: last.end].endswith(token):
            return
        start, end = last.spans[-1]
        if self.text[end:].strip():
            return
        self.text = self.text[:end] + token
        turns[-1] = replace(last, spans=(*last.spans[:-1], (start, end + len(token))))
