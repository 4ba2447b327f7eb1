"""Rows of one length: text joined end to end, as models are pretrained (LongLoRA, arXiv 2309.12307, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.data.tokens import TokenizedSplit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNCUT = 1 << 31  # tokens of a text; `Data` would cut long ones into windows that share a token


@dataclass
class JoinedText(Data):
    """Texts joined end to end with their special tokens, and cut into rows of exactly `max_length` tokens.

    What is left at the end of a split is dropped. With `returns` each text stands once more some texts
    later, so that a part of every row can be predicted only from far before: generated rows of which
    one knows what their context is worth.
    """

    returns: int | None = (
        None  # a text comes again after this many further ones, each followed by an earlier one; null: never
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format not in ("auto", "text"):
            what = f"joined rows are made of plain text, not of format {self.format}."
            raise UserError(what, where="data.format", fix="data.format=text")
        if self.sources:
            what = "rows are joined from the texts of one source; a row of several has no weight."
            raise UserError(what, where="data.sources", fix="data.path=FILE")
        if self.returns is not None and self.returns < 1:
            what = f"a text cannot come again after {self.returns} others."
            raise UserError(what, where="data.returns", fix="data.returns=null")
        self._rendering = replace(self._rendering, max_length=UNCUT)
        self._joined: dict[str, JoinedSplit] = {}

    def prepare(
        self, split: str, tokenizer: PreTrainedTokenizerBase, progress: Any = None
    ) -> JoinedSplit:
        """Return the rows of a split.

        Raises:
            UserError: as `Data.prepare`; or the split has fewer than `max_length` tokens.
        """
        tokenized = super().prepare(split, tokenizer, progress)
        joined = self._joined.get(tokenized.fingerprint)
        if joined is None:
            joined = JoinedSplit(tokenized, self.max_length, self.returns)
            self._joined[tokenized.fingerprint] = joined
        if not len(joined):
            raise UserError(
                f"the texts of '{split}' have {len(joined.source)} tokens, less than one row.",
                where="data.max_length",
                fix=f"data.max_length={max(2, len(joined.source))}",
            )
        return joined


class JoinedSplit(TokenizedSplit):
    """The tokens of a split in rows of one length.

    Args:
        tokenized: the documents.
        length: tokens of a row.
        returns: see `JoinedText`.

    Attributes:
        documents: the tokens from which the rows are joined.
        source: document of each token, int64 [tokens], before the rest was dropped.
        again: whether a token belongs to a document that came before, bool [rows * length].
    """

    def __init__(self, tokenized: TokenizedSplit, length: int, returns: int | None) -> None:
        super().__init__(*tokenized.folders)
        self.documents = tokenized
        order, again = order_documents(len(tokenized), returns)
        sizes = tokenized.lengths[order]
        starts = np.repeat(tokenized.offsets[order] - (np.cumsum(sizes) - sizes), sizes)
        places = starts + np.arange(len(starts))
        self.source = np.repeat(order, sizes)
        rows = len(places) // length
        kept = places[: rows * length]
        self.ids, self.loss_mask = (
            np.asarray(tokenized.ids)[kept],
            np.asarray(tokenized.loss_mask)[kept],
        )
        self.again = np.repeat(again, sizes)[: rows * length]
        self.offsets, self.sizes = np.arange(rows + 1) * length, [rows]
        self.loss_mask[self.offsets[:-1]] = 0  # nothing stands before it to predict it from
        self.meta = {**tokenized.meta, "tokens": len(kept), "supervised": int(self.loss_mask.sum())}

    def origin(self, index: int) -> str:
        """Return the origin of the document in which a row begins."""
        return self.documents.origin(int(self.source[self.offsets[index]]))


def order_documents(count: int, returns: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return documents in the order in which they are joined, int64 [n], and which come again, bool [n].

    With returns = k they are 0, ..., k - 1, k, 0, k + 1, 1, ...: from its first to its second place a document
    moves by 2 k + 1.
    """
    if returns is None:
        return np.arange(count), np.zeros(count, dtype=bool)
    order, again = [], []
    for i in range(count):
        order.append(i)
        again.append(False)
        if i >= returns:
            order.append(i - returns)
            again.append(True)
    return np.asarray(order, dtype=np.int64), np.asarray(again)
