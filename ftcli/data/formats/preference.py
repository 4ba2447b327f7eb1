"""Preferences: a prompt with a chosen and a rejected answer, as text or as conversations."""

from __future__ import annotations

from typing import Any

from ftcli.data.conversation.exchange import (
    Messages,
    prompt_messages,
    said,
    with_system,
    with_tools,
    without_prompt,
)
from ftcli.data.conversation.transcripts import is_transcript, prompt_turns, turns
from ftcli.data.conversation.turns import conversation
from ftcli.data.rows import Unusable, as_text

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
    """{"prompt", "chosen", "rejected"}: all text, or all lists of messages, then perhaps "tools".

    Conversations without a prompt of their own have their common beginning as prompt. Answers that
    repeat the prompt are taken without it.
    """
    prompt, chosen, rejected = (
        _messages(fields.get(f), f) for f in ("prompt", "chosen", "rejected")
    )
    if is_transcript(chosen) and is_transcript(rejected):
        chosen, rejected = turns(chosen), turns(rejected)
        prompt = prompt_turns(prompt) if is_transcript(prompt) else prompt
    around = {name: fields[name] for name in SURROUNDINGS if name in fields}
    if isinstance(chosen, list) or isinstance(rejected, list) or isinstance(prompt, list) or around:
        return _conversations(
            prompt, _answer(chosen, "chosen"), _answer(rejected, "rejected"), around
        )
    texts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return _without_repetition({name: as_text(value, name) for name, value in texts.items()})


def _messages(value: Any, field: str) -> Any:
    """Turns as messages, also of one turn that stands alone; text as it is."""
    if isinstance(value, dict):
        value = [value]
    return conversation(value, field) if isinstance(value, list) else value


def _answer(value: Any, field: str) -> Messages:
    return (
        value
        if isinstance(value, list)
        else [{"role": "assistant", "content": as_text(value, field)}]
    )


def _without_repetition(texts: dict[str, Any]) -> dict[str, Any]:
    """Both answers without the prompt, where both begin with all of it."""
    prompt = texts["prompt"]
    rests = {f: texts[f].removeprefix(prompt) for f in ("chosen", "rejected")}
    repeated = all(rest.strip() and rest != texts[f] for f, rest in rests.items())
    return texts | rests if repeated else texts


def _conversations(
    prompt: Any, chosen: Messages, rejected: Messages, around: dict[str, Any]
) -> dict[str, Any]:
    if prompt is None:
        shared = _common(chosen, rejected)
        before = with_system(chosen[:shared], around.get("system"))
        left, right = chosen[shared:], rejected[shared:]
    else:
        before = prompt_messages(prompt, around)
        left, right = (without_prompt(answer, before) for answer in (chosen, rejected))
        if left[0]["role"] != "assistant":
            _refuse_other_prompt(prompt, chosen[: _common(chosen, rejected)])
            return _conversations(None, chosen, rejected, around)
    _refuse_unlike(before, left, right)
    asked = with_tools(before, around)
    return {"prompt": asked.pop("messages"), "chosen": left, "rejected": right, **asked}


def _refuse_other_prompt(prompt: Any, shared: Messages) -> None:
    """A prompt that does not stand in what both conversations begin with."""
    texts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    there = [message["content"].strip() for message in shared]
    if not all(text.strip() in there for text in texts):
        raise Unusable("has a 'prompt' that is not how 'chosen' and 'rejected' begin.")


def _refuse_unlike(before: Messages, left: Messages, right: Messages) -> None:
    """Answers that are none, or answer different prompts."""
    if not left or not right:
        raise Unusable("'chosen' and 'rejected' do not differ.")
    if all(message["role"] == "system" for message in before):
        raise Unusable(
            "has no prompt: no column of it, and 'chosen' and 'rejected' share no beginning."
        )
    for name, answer in (("chosen", left), ("rejected", right)):
        if answer[0]["role"] != "assistant":
            raise Unusable(
                f"'{name}' goes on with the {answer[0]['role']} where the two differ; they must answer the "
                "same prompt."
            )


def _common(left: Messages, right: Messages) -> int:
    """How many messages the two begin with alike."""
    pairs = zip(left, right, strict=False)
    return next(
        (i for i, (a, b) in enumerate(pairs) if said(a) != said(b)), min(len(left), len(right))
    )
