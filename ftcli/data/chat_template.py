"""A chat template, and which characters of a rendered conversation the assistant wrote.

Templates with `{% generation %}` markers say so themselves. For all others the conversation is
rendered up to each answer and through it; the difference is what the assistant wrote. A template
that renders a turn differently once others follow (Qwen3 drops earlier thinking, some strip
whitespace) has no such prefix; there each answer is found by rendering a stand-in in its place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from ftcli.data.pieces import Piece
from ftcli.data.rows import Unusable
from ftcli.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
STAND_IN = "q9stand0in9q"
SHOWN = 300  # characters of what a template says
COMPARED = 8  # characters by which the end of a generation prompt is recognised
Messages = list[dict[str, Any]]


class ChatTemplate:
    """The template of a tokenizer.

    Raises:
        UserError: the tokenizer has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "the tokenizer has no chat template, and the data are conversations.",
                where="model.chat_template",
                fix="set model.chat_template to a template (text or file), or use an instruct model's",
            )
        self.tokenizer = tokenizer
        self.text = tokenizer.get_chat_template()
        self.marked = bool(MARKER.search(self.text))
        specials = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        self._specials = tuple(sorted(token for token in specials if token.strip()))
        self._special = re.compile("|".join(map(re.escape, self._specials)) or r"(?!)")

    def prompt(self, messages: Messages, tools: Any = None) -> str:
        """The conversation so far and the beginning of the answer to come."""
        return self._render(messages, tools, add_generation_prompt=True)

    def pieces(self, messages: Messages, tools: Any = None) -> list[Piece]:
        """The whole conversation, with all that the assistant wrote as its learned spans.

        Raises:
            Unusable: no assistant turn, or the template refuses the conversation.
        """
        said = [m for m in messages if m["role"] == "assistant"]
        if not said:
            raise Unusable("has no assistant turn: nothing to learn.")
        if not any(_says_something(turn) for turn in said):
            raise Unusable("has only empty assistant turns: nothing to learn.", "empty")
        if self.marked:
            text, spans = self._by_markers(messages, tools)
        else:
            text = self._render(messages, tools)
            answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
            spans = [self._span(messages, i, text, tools) for i in answers]
        return [Piece(text, _merged(spans))]

    def _render(self, messages: Messages, tools: Any, **options: Any) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, **options
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise _refused(error) from error
        return str(rendered)

    def _by_markers(self, messages: Messages, tools: Any) -> tuple[str, Sequence[tuple[int, int]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = cast(Any, render_jinja_template)(
                conversations=[messages],
                tools=tools,
                chat_template=self.text,
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise _refused(error) from error
        return texts[0], spans[0]

    def _span(self, messages: Messages, turn: int, text: str, tools: Any) -> tuple[int, int]:
        """Where in `text` the assistant's turn stands, with the token that ends it."""
        before = self._partial(messages[:turn], tools, add_generation_prompt=True)
        last = turn == len(messages) - 1
        through = text if last else self._partial(messages[: turn + 1], tools)
        stable = before and through and text.startswith(through) and through.startswith(before)
        if stable:
            assert before is not None and through is not None
            start, end = len(before), len(through)
        else:
            start, end = self._located(messages, turn, text, before, tools)
        return start, self._trimmed(text, start, end)

    def _partial(self, messages: Messages, tools: Any, **options: Any) -> str | None:
        """Part of a conversation; None when the template refuses it, as some do without a user."""
        if not messages:
            return None
        try:
            return self._render(messages, tools, **options)
        except Unusable:
            return None

    def _located(
        self, messages: Messages, turn: int, text: str, before: str | None, tools: Any
    ) -> tuple[int, int]:
        """The turn's content, found by what does not change when a stand-in takes its place."""
        stood_in = [*messages]
        stood_in[turn] = {**messages[turn], "content": STAND_IN}
        head, found, tail = self._render(stood_in, tools).partition(STAND_IN)
        if not found:
            return 0, 0
        start = len(os.path.commonprefix([head, text]))
        end = len(text) - len(_common_suffix(tail, text[start:]))
        if before and text.startswith(before) and len(before) <= end:
            start = len(before)
        elif before and start == len(head):
            start = _opening(head, before)
        ending = self._partial(stood_in[: turn + 1], tools) or ""
        return start, end + self._ending(ending.rpartition(STAND_IN)[2], text[end:])

    def _ending(self, expected: str, behind: str) -> int:
        """How much of what stands behind an answer belongs to it: whole special tokens only."""
        common = os.path.commonprefix([expected, behind])
        ends = [m.end() for m in self._special.finditer(behind) if m.end() <= len(common)]
        return max(ends, default=len(common))

    def _trimmed(self, text: str, start: int, end: int) -> int:
        """Without the line break that many templates put behind the end-of-turn token."""
        turn = text[start:end].rstrip()
        return start + len(turn) if turn.endswith(self._specials) else end


def _refused(error: Exception) -> Unusable:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return Unusable(f"is refused by the chat template: {said[:SHOWN]}")


def _says_something(turn: dict[str, Any]) -> bool:
    """Whether there is text, or a field such as tool_calls that the template writes out."""
    fields = (value for key, value in turn.items() if key not in ("role", "content"))
    return bool(turn["content"].strip() or any(fields))


def _merged(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple((start, end) for start, end in spans if start < end)


def _opening(head: str, before: str) -> int:
    """Where the generation prompt ends in `head`: some templates put a blank before the answer."""
    for end in range(len(head), len(head.rstrip()) - 1, -1):
        if before.endswith(head[max(0, end - COMPARED) : end]):
            return end
    return len(head)


def _common_suffix(left: str, right: str) -> str:
    return os.path.commonprefix([left[::-1], right[::-1]])[::-1]
