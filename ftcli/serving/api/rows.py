"""One answer that is being written: its prompt, how its tokens are chosen, and who is told."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from ftcli.serving.api.answer_text import AnswerText

if TYPE_CHECKING:
    import torch

Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """New text of an answer."""

    text: str


@dataclass(frozen=True)
class End:
    """The end of an answer.

    Attributes:
        rest: text that no `Piece` has held yet.
        text: the whole answer.
        reason: `stop` for an end token or stop string, `length` for the limit.
        tokens: number of generated tokens, the end token included.
    """

    rest: str
    text: str
    reason: Reason
    tokens: int


@dataclass(frozen=True)
class Failure:
    """An answer that will not come."""

    error: Exception


Event: TypeAlias = Piece | End | Failure


@dataclass(eq=False)
class Row:
    """One answer that is being written.

    Attributes:
        prompt: token ids.
        max_tokens: longest answer, in tokens.
        text: decoder of the answer.
        emit: called with each event, from the thread of the engine.
        temperature: 0 decodes greedily.
        top_p: share of the probability that is sampled from.
        seed: of this row's random numbers; None draws one.
        cancelled: set by whoever no longer wants the answer.
    """

    prompt: list[int]
    max_tokens: int
    text: AnswerText
    emit: Callable[[Event], None]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    finished: bool = False

    @cached_property
    def generator(self) -> torch.Generator:
        """Source of this row's random numbers: what else is in the batch does not change them."""
        import torch

        seed = secrets.randbits(63) if self.seed is None else self.seed
        return torch.Generator().manual_seed(seed)

    @property
    def remaining(self) -> int:
        """Number of tokens that may still be generated."""
        return self.max_tokens - len(self.tokens)

    def push(self, token: int, ends: Collection[int]) -> None:
        """Take the next token; `ends` are the tokens that end an answer."""
        self.tokens.append(token)
        piece = "" if token in ends else self.text.push(token)
        if token in ends or self.text.stopped or self.remaining <= 0:
            self._end("stop" if token in ends or self.text.stopped else "length", piece)
        elif piece:
            self.emit(Piece(piece))

    def fail(self, error: Exception) -> None:
        """End the answer with an error."""
        if not self.finished:
            self.finished = True
            self.emit(Failure(error))

    def _end(self, reason: Reason, piece: str) -> None:
        self.finished = True
        rest = piece + self.text.finish()
        stopped: Reason = "stop" if self.text.stopped else reason
        self.emit(End(rest, self.text.given, stopped, len(self.tokens)))
