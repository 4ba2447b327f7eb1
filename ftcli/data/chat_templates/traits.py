"""Find out how a chat template writes conversations, by rendering small ones.

No template is known by name: each is probed, once a process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ftcli.data.chat_templates.messages import adapt_messages
from ftcli.data.chat_templates.program import Messages, TemplateProgram

ASKED, ANSWERED, ASKED_NEXT, RESULT = "qzaskedzq", "qzansweredzq", "qznextzq", "qzresultzq"
THOUGHT, FIRST, SECOND, NAME = "qzthoughtzq", "qzfirstzq", "qzsecondzq", "qznamezq"
TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "d",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
    },
}


@dataclass(frozen=True)
class Traits:
    """How one template writes conversations with the special tokens of one tokenizer.

    Attributes:
        needs_parts: it writes content that is a list of parts, and drops content that is text.
        opening: generation prompt, the text in front of an answer.
        ends: special tokens that end an assistant's turn.
        ending: token that ftcli has to append to answers; "" where the template writes one.
        ends_last: whether it writes an end behind the last answer.
        closing: token that ftcli has to append to a conversation that ends with an answer.
        call_closing: token that ftcli has to append to a conversation that ends with tool calls.
        separated: answers end only with the token that begins the next turn.
        arguments: form of tool calls' arguments that it writes as JSON once; None: it drops calls.
        thinking_forms: forms of thinking that it writes in the last answer: `field`, `tags`.
    """

    needs_parts: bool
    opening: str
    ends: tuple[str, ...]
    ending: str
    ends_last: bool
    closing: str
    call_closing: str
    separated: bool
    arguments: Literal["object", "text"] | None
    thinking_forms: tuple[str, ...]

    @property
    def adds_end(self) -> str:
        """Token that ftcli adds as the end of answers; "" where the template writes one."""
        return self.ending or self.closing


def find_traits(program: TemplateProgram) -> Traits:
    """Probe a template and return its traits."""
    parts = _wants_parts(program)
    probe = _Probe(program, parts)
    answer = [_user(ASKED), _assistant(ANSWERED)]
    last, middle = (
        probe.text_behind(answer, ANSWERED),
        probe.text_between([*answer, _user(ASKED_NEXT), _assistant("x")], ANSWERED, ASKED_NEXT),
    )
    ends_last = program.leading_specials(last)
    follows = program.leading_specials(middle) if middle else ends_last
    separator = _find_separator(program, ends_last, follows)
    eos = program.tokens.get("eos_token", "")
    ends = list(dict.fromkeys(filter(None, [separator, *ends_last[-1:], eos])))
    arguments, call_end, call_closing = _find_call_traits(probe, ends)
    return Traits(
        needs_parts=parts,
        opening=_find_opening(program, probe),
        ends=tuple(dict.fromkeys(filter(None, [*ends, call_end]))),
        ending="" if separator else eos,
        ends_last=bool(ends_last),
        closing="" if ends_last else separator,
        call_closing=call_closing or ("" if ends_last else separator or eos),
        separated=bool(separator) and not ends_last,
        arguments=arguments,
        thinking_forms=_find_thinking_forms(probe),
    )


class _Probe:
    """Renders small conversations; a template that refuses one writes nothing."""

    def __init__(self, program: TemplateProgram, parts: bool) -> None:
        self.program, self.parts = program, parts

    def render(self, messages: Messages, arguments: str = "object", prompt: bool = False) -> str:
        turns = adapt_messages(messages, self.parts, arguments)
        tools = [TOOL] if any("tool_calls" in turn for turn in turns) else None
        return self.program.try_render(turns, tools, prompt) or ""

    def text_behind(self, messages: Messages, mark: str) -> str:
        return self.render(messages).rpartition(mark)[2]

    def text_between(self, messages: Messages, mark: str, other: str) -> str:
        return self.render(messages).rpartition(mark)[2].partition(other)[0]


def _wants_parts(program: TemplateProgram) -> bool:
    turns = [_user(ASKED), _assistant(ANSWERED)]
    if ANSWERED in (program.try_render(adapt_messages(turns, False)) or ""):
        return False
    return ANSWERED in (program.try_render(adapt_messages(turns, True)) or "")


def _find_separator(program: TemplateProgram, ends_last: list[str], follows: list[str]) -> str:
    """Return the token that ends an answer that is followed by a turn: an end token, or the next turn's first.

    Args:
        ends_last: special tokens behind an answer that stands last.
        follows: special tokens between an answer and the next question.
    """
    shared = os.path.commonprefix([ends_last, follows])
    separator = shared[-1] if shared else (follows[0] if follows else "")
    begins = program.tokens.get("bos_token", "") != program.tokens.get("eos_token", "")
    return "" if begins and separator == program.tokens.get("bos_token") else separator


def _find_call_traits(
    probe: _Probe, ends: Sequence[str]
) -> tuple[Literal["object", "text"] | None, str, str]:
    """Return (form of the arguments, token that ends a turn of calls, token to append to such a turn)."""
    for form in ("object", "text"):
        single = probe.render(_calling_messages(FIRST), form)
        if _writes_json_once(single, form):
            break
    else:
        return None, "", ""
    last = single.rpartition(FIRST)[2]
    whole = probe.render([*_calling_messages(FIRST), _result("a"), _assistant(ANSWERED)], form)
    middle = whole.rpartition(FIRST)[2].partition(RESULT)[0]
    inside, several, _ = probe.render(_calling_messages(FIRST, SECOND), form).partition(SECOND)
    specials = probe.program.specials_in
    closers = set(specials(inside.rpartition(FIRST)[2])) if several else set()
    written = specials(last)
    if set(written) & set(ends) and (not middle or set(specials(middle)) & set(ends)):
        return form, "", ""
    ends_of_turn = [token for token in written if token not in closers]
    if ends_of_turn:
        return form, ends_of_turn[-1], ""
    behind = [token for token in specials(middle) if token not in written]
    end = behind[0] if behind else ""
    return form, end, end


def _writes_json_once(text: str, form: str) -> bool:
    """Whether the probe's call is written, neither as Python's repr nor encoded as JSON twice."""
    wrong = f"'{FIRST}'" if form == "object" else f'\\"{FIRST}\\"'
    return NAME in text.partition(ASKED)[2] and FIRST in text and wrong not in text


def _find_thinking_forms(probe: _Probe) -> tuple[str, ...]:
    field = [_user(ASKED), {**_assistant(ANSWERED), "reasoning_content": THOUGHT}]
    tags = [_user(ASKED), _assistant(f"<think>\n{THOUGHT}\n</think>\n\n{ANSWERED}")]
    forms = {"field": field, "tags": tags}
    return tuple(form for form, turns in forms.items() if THOUGHT in probe.render(turns))


def _find_opening(program: TemplateProgram, probe: _Probe) -> str:
    asked = [_user(ASKED)]
    prompt, plain = probe.render(asked, prompt=True), probe.render(asked)
    start = len(os.path.commonprefix([prompt, plain]))
    while start > 0 and program.cuts_special(prompt, start):
        start -= 1
    return prompt[start:]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _result(name: str) -> dict[str, Any]:
    return {"role": "tool", "name": NAME, "tool_call_id": f"call00000{name}", "content": RESULT}


def _calling_messages(*values: str) -> list[dict[str, Any]]:
    """A question and a call for each value; ids have nine letters, which some templates require."""
    calls = [
        {
            "id": f"call0000{number}",
            "type": "function",
            "function": {"name": NAME, "arguments": {"key": value}},
        }
        for number, value in enumerate(values)
    ]
    return [_user(ASKED), {"role": "assistant", "content": "", "tool_calls": calls}]
