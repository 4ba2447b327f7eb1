"""Render whole conversations, and prompts for the next answer, with a tokenizer's chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ftcli.data.chat_templates.messages import has_content
from ftcli.data.chat_templates.program import (
    Messages,
    Span,
    TemplateProgram,
    Tools,
    read_template,
)
from ftcli.data.chat_templates.rendering import Conversation, RenderedConversation, prepare_messages
from ftcli.data.chat_templates.traits import Traits, find_traits
from ftcli.data.rows import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTemplate:
    """The template of a tokenizer.

    Args:
        tokenizer: gives the template, special tokens and added tokens.
        day: ISO date that templates print as today's date.
        options: further variables that the template reads, such as enable_thinking.

    Raises:
        UserError: the tokenizer has none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        day: str,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self.day, self.options = tokenizer, day, dict(options or {})
        self._programs: dict[
            bool, tuple[TemplateProgram, Traits]
        ] = {}  # key: whether the row has tools
        self.program, self.traits = self._program_for(None)
        self.has_markers = self.program.has_markers

    def notes(self) -> list[str]:
        """Sentences on what ftcli adds to the template's own text."""
        notes = []
        token, traits = self.traits.adds_end, self.traits
        if token and traits.separated:
            notes.append(
                f"it writes no end behind answers: {token!r}, which begins the next turn, is learned as the end"
            )
        elif token:
            notes.append(
                f"it writes no end behind answers: {token!r} is added behind each, in prompts too"
            )
        if self.program.prints_date:
            notes.append(f"where it prints today's date it prints data.date={self.day}")
        return notes

    def render_prompt(
        self, messages: Messages, tools: Tools = None
    ) -> tuple[str, tuple[Span, ...]]:
        """Return the conversation with the generation prompt, and the ranges of earlier answers.

        Training tokenises the text apart at these ranges, so prompts do too.
        """
        program, traits = self._program_for(tools)
        text = program.render(prepare_messages(messages, traits, followed=True), tools, prompt=True)
        if not any(message["role"] == "assistant" for message in messages):
            return text, ()
        try:
            rendered = RenderedConversation(program, traits, messages, tools).render()
        except RowError:  # some templates refuse conversations that end with a question
            return text, ()
        same = len(os.path.commonprefix([text, rendered.text]))
        spans = sorted((*rendered.learned, *rendered.excluded))
        return text, tuple((start, end) for start, end in spans if end <= same)

    def render_conversation(self, messages: Messages, tools: Tools = None) -> Conversation:
        """Render the whole conversation and find what of it is learned.

        Raises:
            RowError: nothing to learn, or the template refuses the conversation.
        """
        answers = [m for m in messages if m["role"] == "assistant"]
        if not answers:
            raise RowError("has no assistant turn: nothing to learn.")
        if not any(has_content(turn) for turn in answers):
            raise RowError("has only empty assistant turns: nothing to learn.", "empty")
        if not any(turn.get("learn", True) for turn in answers):
            raise RowError("keeps every assistant turn from being learned.", "no labels")
        return RenderedConversation(*self._program_for(tools), messages, tools).render()

    def _program_for(self, tools: Tools) -> tuple[TemplateProgram, Traits]:
        kind = bool(tools)
        if kind not in self._programs:
            options = json.dumps(self.options, sort_keys=True)
            self._programs[kind] = _load_program(
                *read_template(self.tokenizer, tools), self.day, options
            )
        return self._programs[kind]


@lru_cache(maxsize=64)
def _load_program(
    text: str,
    tokens: tuple[tuple[str, str], ...],
    specials: tuple[str, ...],
    day: str,
    options: str,
) -> tuple[TemplateProgram, Traits]:
    program = TemplateProgram(text, dict(tokens), specials, day, json.loads(options))
    return program, find_traits(program)
