"""Sample documents as the model will see them, with what of them is learned."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftcli.data.dataset import Data
    from ftcli.data.tokens import Document


@dataclass(frozen=True)
class Stretch:
    """Text that is learned as a whole or not at all; `special` where it is one special token."""

    text: str
    learned: bool
    special: bool


@dataclass(frozen=True)
class Sample:
    """One document.

    Attributes:
        origin: file and line.
        stretches: the whole document, in order.
        tokens: number of tokens.
        learned: number of learned tokens.
        ends: whether the last learned token is a special token, which ends the turn.
        dropped_content: kinds of content that the chat template drops.
        source: title of the source, where there are several.
    """

    origin: str
    stretches: list[Stretch]
    tokens: int
    learned: int
    ends: bool
    dropped_content: tuple[str, ...] = ()
    source: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def read_samples(
    data: Data, tokenizer: PreTrainedTokenizerBase, count: int, split: str = "train"
) -> list[Sample]:
    """Return the documents of the first `count` examples of each source of a split."""
    return [
        replace(_build_sample(document, example["origin"], tokenizer), source=example["source"])
        for example, documents in data.sample(split, tokenizer, count)
        for document in documents
    ]


def _build_sample(document: Document, origin: str, tokenizer: PreTrainedTokenizerBase) -> Sample:
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = document.ids.tolist()
    marks = [token in special for token in ids]
    learned = np.flatnonzero(document.loss_mask)
    stretches = []
    start = 0
    for end in range(1, len(ids) + 1):
        alone = marks[start] or (end < len(ids) and marks[end])
        if end == len(ids) or alone or document.loss_mask[end] != document.loss_mask[start]:
            text = str(tokenizer.decode(ids[start:end]))
            stretches.append(Stretch(text, bool(document.loss_mask[start]), marks[start]))
            start = end
    ends = bool(len(learned)) and marks[int(learned[-1])]
    return Sample(origin, stretches, len(ids), len(learned), ends, document.dropped_content)
