"""Render conversations with a chat template, a fixed date and known special tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from ftcli.core.errors import UserError
from ftcli.data.rows import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
TODAY = re.compile(r"""strftime_now\(\s*(["'])(.+?)\1\s*\)""")
SHOWN = 300  # characters of a template's error in a message
Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None
Span = tuple[int, int]


class TemplateProgram:
    """A template's text with the special tokens of a tokenizer.

    Args:
        text: the Jinja source.
        tokens: special tokens by name, such as eos_token, which templates may write.
        specials: all tokens that the tokenizer never splits.
        day: ISO date that is written wherever the template asks for today's date.
        options: further variables that the template reads.
    """

    def __init__(
        self,
        text: str,
        tokens: Mapping[str, str],
        specials: Sequence[str],
        day: str,
        options: Mapping[str, Any],
    ) -> None:
        self.source, self.tokens, self.day = text, dict(tokens), day
        self.variables = {**options, **tokens}
        self.text = _insert_date(text, day)
        self.prints_date = self.text != text
        self.has_markers = bool(MARKER.search(text))
        self.specials = tuple(sorted(filter(str.strip, specials), key=len, reverse=True))
        self._special = re.compile("|".join(map(re.escape, self.specials)) or r"(?!)")
        self._run = re.compile(rf"\s*(?:(?:{self._special.pattern})\s*)*")
        self._longest = max(map(len, self.specials), default=1)

    def render(self, messages: Messages, tools: Tools = None, prompt: bool = False) -> str:
        """Render a conversation; with `prompt`, also the generation prompt behind it.

        Raises:
            RowError: the template refuses the conversation.
        """
        return self._run_program(messages, tools, add_generation_prompt=prompt)[0][0]

    def render_marked(self, messages: Messages, tools: Tools = None) -> tuple[str, list[Span]]:
        """Render a conversation; return its text and the character ranges inside generation markers."""
        texts, spans = self._run_program(messages, tools, return_assistant_tokens_mask=True)
        return texts[0], list(spans[0])

    def try_render(
        self, messages: Messages, tools: Tools = None, prompt: bool = False
    ) -> str | None:
        """Render a conversation; None for no messages or where the template refuses them."""
        if not messages:
            return None
        try:
            return self.render(messages, tools, prompt)
        except RowError:
            return None

    def leading_specials(self, text: str) -> list[str]:
        """Special tokens at the beginning of a text, ignoring white space between them."""
        matched = self._run.match(text)
        return self._special.findall(matched.group()) if matched else []

    def specials_in(self, text: str) -> list[str]:
        """Special tokens in a text, in order."""
        return self._special.findall(text)

    def cuts_special(self, text: str, at: int) -> bool:
        """Whether a position lies inside a special token."""
        low = max(0, at - self._longest)
        around = self._special.finditer(text[low : at + self._longest])
        return any(low + m.start() < at < low + m.end() for m in around)

    def _run_program(self, messages: Messages, tools: Tools, **options: Any) -> Any:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            return cast(Any, render_jinja_template)(
                conversations=[messages],
                tools=tools or None,
                chat_template=self.text,
                **options,
                **self.variables,
            )
        except Exception as error:  # a template is a program: it may raise anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise RowError(f"is refused by the chat template: {lines[0][:SHOWN]}") from error


def read_template(
    tokenizer: PreTrainedTokenizerBase, tools: Tools
) -> tuple[str, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return a tokenizer's template (with or without tools), special tokens by name, and all special tokens.

    Raises:
        UserError: the tokenizer has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "the tokenizer has no chat template, and the data are conversations.",
            where="model.chat_template",
            fix="set model.chat_template to a template (text or file), or use an instruct model's",
        )
    text = tokenizer.get_chat_template(tools=tools or None)  # type: ignore[arg-type]  # only read
    specials = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return text, tuple(sorted(tokenizer.special_tokens_map.items())), tuple(sorted(specials))


def _insert_date(text: str, day: str) -> str:
    """Replace calls for today's date by `day`: transformers gives no way to pass another clock."""
    today = date.fromisoformat(day)
    return TODAY.sub(lambda call: json.dumps(today.strftime(call.group(2))), text)
