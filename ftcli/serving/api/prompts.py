"""Token ids of the prompts of requests, rendered by the run's data as in training."""

from __future__ import annotations

from typing import Any

from ftcli.core.errors import UserError
from ftcli.data.formats import chat as chat_format
from ftcli.data.rows import RowError
from ftcli.serving.api.errors import ApiError
from ftcli.serving.api.requests import ChatRequest, TextRequest
from ftcli.serving.api.served import Served


def render_chat(served: Served, request: ChatRequest) -> list[int]:
    """Return the prompt of a conversation.

    Raises:
        ApiError: the run was trained on other prompts, the template refuses the conversation, or it
            does not show the tools.
    """
    example = _parse_messages(request)
    kind = served.chat.kind
    if kind == "text":
        raise ApiError(
            400, f"{served.name} was trained on text, not on conversations.", "model",
            "send the text to /v1/completions",
        )  # fmt: skip
    if kind == "prompt":
        return served.chat.render(_single_prompt(served, example))
    if example["messages"][-1]["role"] == "assistant":
        raise ApiError(
            400, "the last message is the assistant's, and answers are not continued.", "messages",
            "end with a message of the user or of a tool",
        )  # fmt: skip
    ids = _encode(served, example)
    if example.get("tools") and ids == _encode(served, {"messages": example["messages"]}):
        raise ApiError(
            400, f"the chat template of {served.name} does not show tools.", "tools",
            "leave tools out, or train with a model.chat_template that has them",
        )  # fmt: skip
    return ids


def render_texts(served: Served, request: TextRequest) -> list[list[int]]:
    """Return the texts to continue, with the start tokens of training and without a template."""
    data, tokenizer = served.run.data, served.run.tokenizer
    return [data.beginning_ids(text, tokenizer) for text in request.prompt]


def limit_answer(served: Served, prompt: list[int], asked: int | None, default: int) -> int:
    """Return the longest answer to a prompt in tokens.

    Raises:
        ApiError: prompt and answer do not fit the model's context, or the prompt is empty.
    """
    if not prompt:
        raise ApiError(400, "the prompt is empty.", "prompt", "send some text")
    room = served.context - len(prompt)
    if room < (asked or 1):
        raise ApiError(
            400,
            f"the model's context is {served.context} tokens; the prompt has {len(prompt)}"
            + (f", and the answer may have {asked}." if asked else "."),
            "messages" if asked is None or room < 1 else "max_tokens",
            "a shorter prompt" if room < 1 else f"max_tokens={room} or less",
            "context_length_exceeded",
        )
    return asked or min(default, room)


def _parse_messages(request: ChatRequest) -> dict[str, Any]:
    tools = None if request.tool_choice == "none" else request.tools
    try:
        fields = {"messages": request.messages} | ({"tools": tools} if tools else {})
        return chat_format.example(fields)
    except RowError as error:
        raise ApiError(400, f"the conversation: {error}", "messages", "see docs/data.md") from error


def _single_prompt(served: Served, example: dict[str, Any]) -> str:
    """Return the text of the only message; a run trained on single prompts would not see others."""
    messages = example["messages"]
    if len(messages) != 1 or messages[0]["role"] != "user" or example.get("tools"):
        raise ApiError(
            400, f"{served.name} was trained on single prompts, without history, system or tools.",
            "messages", "send one message of the user",
        )  # fmt: skip
    return str(messages[0]["content"])


def _encode(served: Served, example: dict[str, Any]) -> list[int]:
    try:
        return served.run.data.prompt_ids(example, served.run.tokenizer)
    except UserError as error:
        raise ApiError(400, error.what, "messages", "another order of messages") from error
