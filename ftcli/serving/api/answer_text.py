"""Text of an answer while its tokens arrive: whole characters only, cut at stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNFINISHED = "\ufffd"  # what a tokenizer decodes the first bytes of a character to


class AnswerText:
    """Decodes the tokens of one answer and holds back what may still be cut off.

    Args:
        tokenizer: tokenizer of the model.
        stops: strings that end the answer; they are not part of it.
        strip: remove white space around the answer, as `ftcli chat` does.
        eager: decode each token when it arrives; without it `stops` is empty and only `finish` decodes.
    """

    def __init__(
        self, tokenizer: Any, stops: Sequence[str] = (), strip: bool = True, eager: bool = True
    ) -> None:
        self.tokenizer, self.stops, self.strip = tokenizer, tuple(stops), strip
        self.eager = eager or bool(stops)
        self.stopped = False  # whether a stop string was met
        self.given = ""  # the text that `push` and `finish` have returned so far
        self._tokens: list[int] = []
        self._text = ""  # decoded so far, up to the first stop string
        self._from = self._read = (
            0  # tokens before `_read` are decoded; those since `_from` are context
        )

    def push(self, token: int) -> str:
        """Take one token; return the text that is certain now and was not returned before."""
        self._tokens.append(token)
        if not self.eager:
            return ""
        before = self._decode(self._tokens[self._from : self._read])
        now = self._decode(self._tokens[self._from :])
        if len(now) <= len(before) or now.endswith(UNFINISHED):
            return ""
        self._from, self._read = self._read, len(self._tokens)
        self._text += now[len(before) :]
        self._cut()
        return self._give(self._strip(self._text if self.stopped else self._certain()))

    def finish(self) -> str:
        """Return the rest of the text; `given` is the whole answer afterwards."""
        if not self.stopped:
            whole = self._decode(self._tokens)
            if whole.startswith(self._text):  # else the tokenizer decodes parts differently
                self._text = whole
            self._cut()
        return self._give(self._strip(self._text))

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _cut(self) -> None:
        """Cut the text at the first stop string in it."""
        found = [at for at in map(self._text.find, self.stops) if at >= 0]
        if found:
            self._text, self.stopped = self._text[: min(found)], True

    def _certain(self) -> str:
        """Return the text without an ending with which a stop string may begin."""
        text = self._text
        longest = max(map(len, self.stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stops):
                return text[:-length]
        return text

    def _strip(self, text: str) -> str:
        return text.strip() if self.strip else text

    def _give(self, text: str) -> str:
        new = text[len(self.given) :]
        self.given += new
        return new
