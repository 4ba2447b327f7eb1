"""Preferences: a prompt with a chosen and a rejected answer, as text or as conversations."""

from __future__ import annotations

from typing import Any

from ftcli.data.conversation.exchange import (
    Messages,
    add_system,
    add_tools,
    message_key,
    prompt_messages,
    strip_prompt,
)
from ftcli.data.conversation.transcripts import is_transcript, parse_prompt, parse_transcript
from ftcli.data.conversation.turns import parse_conversation
from ftcli.data.rows import RowError, as_text

FIELDS = {
    "prompt": False, "chosen": True, "rejected": True, "system": False, "history": False, "tools": False,
}  # fmt: skip
SYNONYMS = {
    "prompt": ("question", "query", "instruction", "input"),
    "chosen": (
        "preferred", "response_chosen", "chosen_response", "winner", "better", "accepted",
    ),
    "rejected": ("dispreferred", "response_rejected", "rejected_response", "loser", "worse"),
}  # fmt: skip
DEFAULTS = {"prompt": ("prompt", "question", "instruction", "query", "input", "conversations")}
SURROUNDINGS = ("system", "history", "tools")


def example(fields: dict[str, Any]) -> dict[str, Any]:
    """Return {"prompt", "chosen", "rejected"}: all text, or all lists of messages, possibly with "tools".

    The prompt of conversations without a prompt column is their common beginning. Answers that begin
    with the prompt are used without it.
    """
    prompt, chosen, rejected = (
        _parse_if_turns(fields.get(f), f) for f in ("prompt", "chosen", "rejected")
    )
    if is_transcript(chosen) and is_transcript(rejected):
        chosen, rejected = parse_transcript(chosen), parse_transcript(rejected)
        prompt = parse_prompt(prompt) if is_transcript(prompt) else prompt
    around = {name: fields[name] for name in SURROUNDINGS if name in fields}
    if isinstance(chosen, list) or isinstance(rejected, list) or isinstance(prompt, list) or around:
        return _build_conversations(
            prompt,
            _answer_messages(chosen, "chosen"),
            _answer_messages(rejected, "rejected"),
            around,
        )
    texts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return _strip_repetition({name: as_text(value, name) for name, value in texts.items()})


def _parse_if_turns(value: Any, field: str) -> Any:
    """Convert turns, or a single turn, to messages; return text unchanged."""
    if isinstance(value, dict):
        value = [value]
    return parse_conversation(value, field) if isinstance(value, list) else value


def _answer_messages(value: Any, field: str) -> Messages:
    return (
        value
        if isinstance(value, list)
        else [{"role": "assistant", "content": as_text(value, field)}]
    )


def _strip_repetition(texts: dict[str, Any]) -> dict[str, Any]:
    """Remove the prompt from both answers, where both begin with all of it."""
    prompt = texts["prompt"]
    rests = {f: texts[f].removeprefix(prompt) for f in ("chosen", "rejected")}
    repeated = all(rest.strip() and rest != texts[f] for f, rest in rests.items())
    return texts | rests if repeated else texts


def _build_conversations(
    prompt: Any, chosen: Messages, rejected: Messages, around: dict[str, Any]
) -> dict[str, Any]:
    if prompt is None:
        shared = _count_common(chosen, rejected)
        before = add_system(chosen[:shared], around.get("system"))
        left, right = chosen[shared:], rejected[shared:]
    else:
        before = prompt_messages(prompt, around)
        left, right = (strip_prompt(answer, before) for answer in (chosen, rejected))
        if left[0]["role"] != "assistant":
            _refuse_other_prompt(prompt, chosen[: _count_common(chosen, rejected)])
            return _build_conversations(None, chosen, rejected, around)
    _refuse_unlike(before, left, right)
    asked = add_tools(before, around)
    return {"prompt": asked.pop("messages"), "chosen": left, "rejected": right, **asked}


def _refuse_other_prompt(prompt: Any, shared: Messages) -> None:
    """Raise RowError for a prompt that is not part of the conversations' common beginning."""
    texts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    there = [message["content"].strip() for message in shared]
    if not all(text.strip() in there for text in texts):
        raise RowError("has a 'prompt' that is not how 'chosen' and 'rejected' begin.")


def _refuse_unlike(before: Messages, left: Messages, right: Messages) -> None:
    """Raise RowError for answers that are missing or answer different prompts."""
    if not left or not right:
        raise RowError("'chosen' and 'rejected' do not differ.")
    if all(message["role"] == "system" for message in before):
        raise RowError(
            "has no prompt: no column of it, and 'chosen' and 'rejected' share no beginning."
        )
    for name, answer in (("chosen", left), ("rejected", right)):
        if answer[0]["role"] != "assistant":
            raise RowError(
                f"'{name}' goes on with the {answer[0]['role']} where the two differ; they must answer the "
                "same prompt."
            )


def _count_common(left: Messages, right: Messages) -> int:
    """Number of equal messages at the beginning of both."""
    pairs = zip(left, right, strict=False)
    return next(
        (i for i, (a, b) in enumerate(pairs) if message_key(a) != message_key(b)),
        min(len(left), len(right)),
    )
