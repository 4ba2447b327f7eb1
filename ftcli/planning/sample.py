"""The first rows of the training data, tokenised as training would, without touching its cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ftcli.data.accounting import accounting
from ftcli.planning.findings import Finding, ok, warn

ROWS = 256  # source rows that are read
BARS = 8
SHORT = 60  # characters of a text that are shown
MANY = 0.05  # share of cut documents that is worth a warning


@dataclass(frozen=True)
class Sample:
    """Figures of the sampled documents.

    Attributes:
        lengths: tokens of each document, int64 [documents], cut at `data.max_length`.
        meta: what preparation counted.
        whole: the source has no further rows.
        shown: prompt and learned part of the first document, as text.
    """

    lengths: np.ndarray
    meta: dict[str, Any]
    whole: bool
    shown: tuple[str, str]

    @property
    def learned(self) -> float:
        """Share of tokens that have a label."""
        return float(self.meta["supervised"] / max(1, int(self.lengths.sum())))

    @property
    def cut(self) -> float:
        """Share of documents longer than `data.max_length`."""
        return float(self.meta["overlong"] / max(1, len(self.lengths) + self.meta["dropped"]))

    def histogram(self) -> list[dict[str, int]]:
        """Documents by length, in about equal steps from the shortest to the longest."""
        low, high = int(self.lengths.min()), int(self.lengths.max())
        edges = np.linspace(low, high + 1, min(BARS, high + 1 - low) + 1).round()
        counts, _ = np.histogram(self.lengths, bins=edges)
        return [
            {"from": int(first), "to": int(last) - 1, "documents": int(count)}
            for count, first, last in zip(counts, edges, edges[1:], strict=False)
        ]


@contextmanager
def sampled(data: Any, tokenizer: Any, rows: int = ROWS) -> Iterator[Sample]:
    """A sample of the training split, prepared in a temporary folder.

    Raises:
        UserError: a row cannot be used, or nothing would be learned.
    """
    most = rows if data.limit is None else min(rows, data.limit)
    with TemporaryDirectory() as folder:
        tokens = replace(data, limit=most, cache_dir=folder).prepare("train", tokenizer)
        whole = tokens.meta["entries"] < most
        yield Sample(np.array(tokens.lengths), dict(tokens.meta), whole, _text(tokens, tokenizer))


def _text(tokens: Any, tokenizer: Any) -> tuple[str, str]:
    row = tokens.row(0)
    learned = row["labels"] >= 0
    first = int(np.argmax(learned))
    decode = tokenizer.decode
    return decode(row["input_ids"][:first].tolist()), decode(row["input_ids"][learned].tolist())


def template(data: Any, tokenizer: Any, example: dict[str, Any]) -> Finding:
    """How rows like this example are written.

    Raises:
        UserError: they are conversations, and the tokenizer has no chat template.
    """
    from ftcli.data.chat_template import ChatTemplate
    from ftcli.data.render import DEFAULT_TEMPLATE, is_conversation

    if "text" in example:
        return ok("template", "none: text is learned as it is")
    if is_conversation(example, data.template):
        chat = ChatTemplate(tokenizer, data.date, data.template_options)
        how = "by its own markers" if chat.marked else "by prefix differencing"
        notes = "".join(f"; {note}" for note in chat.notes())
        return ok("template", f"the tokenizer's chat template; answers are found {how}{notes}")
    return ok("template", f"plain: {data.prompt_template or DEFAULT_TEMPLATE!r}, then the answer")


def findings(sample: Sample, limit: int, turns: bool = True) -> Iterator[Finding]:
    """Mask and lengths.

    Args:
        limit: data.max_length.
        turns: whether documents are made of turns, whose ends must be learned.
    """
    prompt, learned = (repr(_short(text)) for text in sample.shown)
    share = f"{100 * sample.learned:.0f} % of the tokens are learned"
    if turns and "no_end" not in sample.meta["losses"]:
        share += ", every end of turn too"
    yield ok("mask", f"{share}; first: {prompt} -> {learned}")
    median, high = np.percentile(sample.lengths, (50, 95))
    longest = sample.meta["longest"]
    text = f"{accounting(sample.meta)}; {len(sample.lengths)} sampled documents: median {median:.0f} tokens, 95 % below "
    text += (
        f"{high:.0f}, longest {longest:,}; {100 * sample.cut:.1f} % above data.max_length={limit}"
    )
    if sample.cut > MANY:
        yield warn("lengths", text, f"data.max_length={longest}")
    else:
        yield ok("lengths", text)


def _short(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
