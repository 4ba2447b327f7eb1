"""Conversations written as one text, in the layout of Anthropic's HH-RLHF: "\\n\\nHuman: ... \\n\\nAssistant: ..."."""

from __future__ import annotations

import re
from typing import Any

from ftcli.data.rows import RowError

SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: Any) -> bool:
    """Whether a value is a text that begins with "Human:"."""
    first = SPEAKER.search(text) if isinstance(text, str) else None
    return first is not None and first[1] == "Human" and not text[: first.start()].strip()


def parse_prompt(text: str) -> list[dict[str, Any]]:
    """Parse a transcript that may end with an empty "Assistant:" turn, which is dropped."""
    _, *parts = SPEAKER.split(text)
    messages = [
        {"role": ROLES[speaker], "content": words.strip()}
        for speaker, words in zip(parts[::2], parts[1::2], strict=True)
    ]
    return messages if messages[-1]["content"] else messages[:-1]


def parse_transcript(text: str) -> list[dict[str, Any]]:
    """Parse a whole transcript into messages, white space around each removed.

    Raises:
        RowError: its last turn is empty.
    """
    messages = parse_prompt(text)
    if text.rstrip().endswith("Assistant:"):
        raise RowError("has a transcript that ends before the answer.", "empty")
    return messages
