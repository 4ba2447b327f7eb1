"""The JSON objects of OpenAI's API that answers consist of."""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ftcli.serving.api.rows import End


@dataclass
class Answer(ABC):
    """Builds the objects of one answered request; the subclasses know the two kinds.

    Attributes:
        model: name of the model.
        prompts: tokens of the prompt of each choice.
        ends: how each choice ended, by its number.
    """

    model: str
    prompts: Sequence[int]
    ends: dict[int, End] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(init=False)

    prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"

    def whole(self) -> dict[str, Any]:
        """Return the answer in one object."""
        choices = [self._choice(i, self.ends[i]) for i in sorted(self.ends)]
        return self._object(self.kind, choices) | {"usage": self.usage()}

    def chunk(self, index: int, text: str, reason: str | None = None) -> dict[str, Any]:
        """Return the next piece of a choice."""
        return self._object(self.chunk_kind, [self._delta(index, text, reason)])

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return the object before the first piece of a choice, where there is one."""
        return None

    def last(self) -> dict[str, Any]:
        """Return the object at the end of a stream that tells the number of tokens."""
        return self._object(self.chunk_kind, []) | {"usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Return the number of tokens; prompts that are alike count once."""
        prompt = self._prompt_tokens()
        completion = sum(end.tokens for end in self.ends.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def _prompt_tokens(self) -> int:
        return sum(self.prompts)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"choices": choices}

    @abstractmethod
    def _choice(self, index: int, end: End) -> dict[str, Any]:
        """Return a choice that has ended, of an answer in one object."""

    @abstractmethod
    def _delta(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        """Return the next piece of a choice, of an answer that streams."""


class ChatAnswer(Answer):
    """Answer of /v1/chat/completions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any]:
        """Return the object that says whose turn it is."""
        choice = self._delta(index, "", None)
        choice["delta"]["role"] = "assistant"
        return self._object(self.chunk_kind, [choice])

    def _choice(self, index: int, end: End) -> dict[str, Any]:
        message = {"role": "assistant", "content": end.text, "refusal": None}
        fields = {"message": message, "finish_reason": end.reason, "logprobs": None}
        return {"index": index, **fields}

    def _delta(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        delta = {"content": text} if text or not reason else {}
        return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}


class TextAnswer(Answer):
    """Answer of /v1/completions."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def _choice(self, index: int, end: End) -> dict[str, Any]:
        return self._delta(index, end.text, end.reason)

    def _delta(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "finish_reason": reason, "logprobs": None}


def to_event(content: dict[str, Any] | str) -> str:
    """Return one event of a stream (server-sent events)."""
    return f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n"
