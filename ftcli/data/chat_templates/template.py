"""The chat template of a tokenizer: whole conversations, and prompts for the answer to come."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ftcli.data.chat_templates.messages import says_something
from ftcli.data.chat_templates.program import Messages, Span, TemplateProgram, template_of
from ftcli.data.chat_templates.rendering import Conversation, RenderedConversation, as_read
from ftcli.data.chat_templates.traits import Traits, find_traits
from ftcli.data.rows import Unusable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTemplate:
    """The template of a tokenizer.

    Args:
        tokenizer: its template, special tokens and added tokens are used.
        day: ISO date that templates print as today's.
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
        self._known: dict[
            bool, tuple[TemplateProgram, Traits]
        ] = {}  # for rows with and without tools
        self.program, self.traits = self._for(None)
        self.marked = self.program.marked

    def notes(self) -> list[str]:
        """What ftcli adds to the template's own text, in words."""
        found = []
        token, traits = self.traits.adds_end, self.traits
        if token and traits.separated:
            found.append(
                f"it ends no answer: {token!r}, which begins the next turn, is learned as the end"
            )
        elif token:
            found.append(f"it ends no answer: {token!r} is written behind each, in prompts too")
        if self.program.prints_date:
            found.append(f"where it prints today's date it prints data.date={self.day}")
        return found

    def prompt(self, messages: Messages, tools: Any = None) -> tuple[str, tuple[Span, ...]]:
        """The conversation so far with the beginning of the answer to come, and the ranges of answers.

        Tokens are cut at the ranges in training, and so they are in prompts.
        """
        program, traits = self._for(tools)
        text = program.render(as_read(messages, traits, followed=True), tools, prompt=True)
        if not any(message["role"] == "assistant" for message in messages):
            return text, ()
        try:
            so_far = RenderedConversation(program, traits, messages, tools).conversation()
        except Unusable:  # some templates refuse conversations that end with a question
            return text, ()
        same = len(os.path.commonprefix([text, so_far.text]))
        spans = sorted((*so_far.learned, *so_far.unlearned))
        return text, tuple((start, end) for start, end in spans if end <= same)

    def conversation(self, messages: Messages, tools: Any = None) -> Conversation:
        """The whole conversation, and what of it is learned.

        Raises:
            Unusable: nothing to learn, or the template refuses the conversation.
        """
        answers = [m for m in messages if m["role"] == "assistant"]
        if not answers:
            raise Unusable("has no assistant turn: nothing to learn.")
        if not any(says_something(turn) for turn in answers):
            raise Unusable("has only empty assistant turns: nothing to learn.", "empty")
        if not any(turn.get("learn", True) for turn in answers):
            raise Unusable("keeps every assistant turn from being learned.", "no labels")
        return RenderedConversation(*self._for(tools), messages, tools).conversation()

    def _for(self, tools: Any) -> tuple[TemplateProgram, Traits]:
        kind = bool(tools)
        if kind not in self._known:
            options = json.dumps(self.options, sort_keys=True)
            self._known[kind] = _asked(*template_of(self.tokenizer, tools), self.day, options)
        return self._known[kind]


@lru_cache(maxsize=64)
def _asked(
    text: str,
    tokens: tuple[tuple[str, str], ...],
    specials: tuple[str, ...],
    day: str,
    options: str,
) -> tuple[TemplateProgram, Traits]:
    program = TemplateProgram(text, dict(tokens), specials, day, json.loads(options))
    return program, find_traits(program)
