"""From a canonical example to token ids and which of them are learned.

An example becomes pieces of text that are tokenised apart, each with the part of it that is
learned. What stands before the first answer is therefore, token for token, the prompt that the model
gets at generation time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ftcli.data.chat_template import ChatTemplate
from ftcli.data.pieces import ALL, Piece, encode
from ftcli.data.rows import Unusable
from ftcli.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HOLE = "{prompt}"
DEFAULT_TEMPLATE = "{prompt}\n"


class Document(NamedTuple):
    """One sequence: ids int32 [n] and learned uint8 [n] (1 where a token is learned)."""

    ids: np.ndarray
    learned: np.ndarray

    def cut(self, length: int) -> Document:
        """Its first `length` tokens."""
        return Document(self.ids[:length], self.learned[:length])


@dataclass(frozen=True)
class Rendering:
    """How examples are written; all that the token cache must know of it."""

    max_length: int = 1024
    mask: Literal["assistant", "all"] = "assistant"
    template: Literal["plain", "chat"] = "plain"
    prompt_template: str | None = None
    system: str | None = None
    pairs: bool = False

    def __post_init__(self) -> None:
        if self.prompt_template is not None and HOLE not in self.prompt_template:
            raise UserError(
                f"{self.prompt_template!r} has no place for the prompt.",
                where="data.prompt_template",
                fix=f"write {HOLE} where it belongs, for example '{HOLE}\\n'",
            )


class Renderer:
    """Writes examples with one tokenizer.

    Args:
        rendering: the settings.
        tokenizer: of the model that is to be trained.
    """

    def __init__(self, rendering: Rendering, tokenizer: PreTrainedTokenizerBase) -> None:
        self.rendering, self.tokenizer = rendering, tokenizer
        self._chat: ChatTemplate | None = None

    @property
    def chat(self) -> ChatTemplate:
        """The tokenizer's chat template; UserError when it has none."""
        if self._chat is None:
            self._chat = ChatTemplate(self.tokenizer)
        return self._chat

    @property
    def uses_markers(self) -> bool:
        """Whether the template itself marks what the assistant wrote."""
        return self._chat is not None and self._chat.marked

    def documents(self, examples: Sequence[dict[str, Any]]) -> list[list[Document] | Unusable]:
        """The documents of each example, or why it has none.

        Plain text may become several; an example of a pair becomes two, chosen and rejected.
        """
        pieces: list[list[list[Piece]] | Unusable] = []
        for example in examples:
            try:
                pieces.append(self._written(example))
            except Unusable as error:
                pieces.append(error)
        rows = [row for given in pieces if not isinstance(given, Unusable) for row in given]
        encoded = iter(encode(rows, self.tokenizer))
        found: list[list[Document] | Unusable] = []
        for example, given in zip(examples, pieces, strict=True):
            if isinstance(given, Unusable):
                found.append(given)
                continue
            documents = [self._masked(*next(encoded)) for _ in given]
            if "text" in example:
                documents = windows(documents[0], self.rendering.max_length)
            found.append(documents)
        return found

    def prompt(self, example: dict[str, Any]) -> list[int]:
        """Token ids of all that stands before the answer; none for plain text."""
        pieces = self._prompt_pieces(example)
        if not pieces:
            return []
        return [int(i) for i in encode([pieces], self.tokenizer)[0][0]]

    def fingerprint(self, example: dict[str, Any]) -> str:
        """Hash of the template that examples like this one are written with."""
        if self._as_chat(example):
            text = f"{self.chat.text}\n{self.rendering.system}"
        else:
            text = "" if "text" in example else self._template
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def _template(self) -> str:
        return self.rendering.prompt_template or DEFAULT_TEMPLATE

    def _as_chat(self, example: dict[str, Any]) -> bool:
        turns = "messages" in example or isinstance(example.get("prompt"), list)
        return turns or ("prompt" in example and self.rendering.template == "chat")

    def _messages(self, example: dict[str, Any]) -> list[dict[str, Any]]:
        if "messages" in example:
            messages = list(example["messages"])
        elif isinstance(example["prompt"], list):
            messages = [*example["prompt"], *example["chosen"]]
        else:
            messages = [
                {"role": "user", "content": example["prompt"]},
                {"role": "assistant", "content": _answer(example)},
            ]
        system = self.rendering.system
        if system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        return messages

    def _written(self, example: dict[str, Any]) -> list[list[Piece]]:
        """The pieces of each document of an example."""
        if not self.rendering.pairs:
            return [self._pieces(example)]
        if "rejected" not in example:
            raise Unusable("has no rejected answer, which data.pairs=true asks for.")
        if example["chosen"] == example["rejected"]:
            raise Unusable("'chosen' and 'rejected' do not differ.")
        sides = [example, {**example, "chosen": example["rejected"]}]
        return [self._completion(side) for side in sides]

    def _completion(self, example: dict[str, Any]) -> list[Piece]:
        """The pieces of one side of a pair: what the assistant said in the prompt is not learned."""
        pieces, prompt = self._pieces(example), example["prompt"]
        if isinstance(prompt, str):
            return pieces
        before = sum(turn["role"] == "assistant" for turn in prompt)
        return [Piece(piece.content, piece.spans[before:]) for piece in pieces]

    def _pieces(self, example: dict[str, Any]) -> list[Piece]:
        if self._as_chat(example):
            return self.chat.pieces(self._messages(example), example.get("tools"))
        if "text" in example:
            return [*self._start(), Piece(example["text"], ALL), *self._end()]
        return [*self._prompt_pieces(example), Piece(_answer(example), ALL), *self._end()]

    def _prompt_pieces(self, example: dict[str, Any]) -> list[Piece]:
        if self._as_chat(example):
            messages = self._messages(example)
            if messages[-1]["role"] == "assistant":
                messages.pop()
            return [Piece(self.chat.prompt(messages, example.get("tools")))]
        if "text" in example:
            return []
        return [*self._start(), Piece(self._template.replace(HOLE, example["prompt"]))]

    def _start(self) -> list[Piece]:
        token = self.tokenizer.bos_token_id
        return [] if token is None else [Piece([token])]

    def _end(self) -> list[Piece]:
        token = self.tokenizer.eos_token_id
        if token is None:
            raise UserError(
                "the tokenizer has no end-of-text token, so that answers could never end.",
                where="model.tokenizer",
                fix="use a tokenizer with eos_token, or data.template=chat",
            )
        return [Piece([token], ALL)]

    def _masked(self, ids: np.ndarray, learned: np.ndarray) -> Document:
        if self.rendering.mask == "all":
            learned = np.ones_like(learned)
        learned[:1] = 0  # nothing stands before the first token to predict it from
        return Document(ids, learned)


def windows(document: Document, length: int) -> list[Document]:
    """Pieces of at most `length` tokens.

    Each begins with the last token of the one before, as context only: every token but the first
    of the text is predicted exactly once.
    """
    found = []
    for start in range(0, max(len(document.ids) - 1, 1), length - 1):
        learned = document.learned[start : start + length].copy()
        learned[:1] = 0
        found.append(Document(document.ids[start : start + length], learned))
    return found


def _answer(example: dict[str, Any]) -> str:
    return str(example["completion"] if "completion" in example else example["chosen"])
