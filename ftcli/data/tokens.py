"""Tokenised documents, and the memory-mapped arrays of a prepared split."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from ftcli.data.statistics import format_counts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Files of a cache folder and the type of their elements.
ARRAYS = {
    "ids": np.int32,
    "learned": np.uint8,
    "offsets": np.int64,
    "origins": np.uint8,
    "origin_offsets": np.int64,
}
IGNORED = -100


class Document(NamedTuple):
    """One sequence: ids int32 [n] and learned uint8 [n] (1 where a token is learned).

    `losses` are the kinds of losses of the chat template.
    """

    ids: np.ndarray
    learned: np.ndarray
    losses: tuple[str, ...] = ()

    def cut(self, length: int) -> Document:
        """Return the first `length` tokens."""
        return Document(self.ids[:length], self.learned[:length], self.losses)


class Row(TypedDict):
    """One document: input_ids int32 [n]; labels int64 [n], -100 where nothing is learned."""

    input_ids: np.ndarray
    labels: np.ndarray


class Tokens:
    """The tokenised documents of one split.

    Args:
        folder: a finished folder of the token cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.ids = _map_array(folder, "ids")
        self.learned = _map_array(folder, "learned")
        self.offsets = np.asarray(_map_array(folder, "offsets"))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each document, int64 [documents]."""
        return np.diff(self.offsets)

    @property
    def fingerprint(self) -> str:
        """Hash of all ids and masks in order."""
        return str(self.meta["fingerprint"])

    @property
    def skipped(self) -> int:
        """Number of rows left out because they could not be used."""
        return int(self.meta["skipped"])

    def row(self, index: int) -> Row:
        """Return one document."""
        here = slice(self.offsets[index], self.offsets[index + 1])
        ids = np.asarray(self.ids[here])
        return {"input_ids": ids, "labels": np.where(self.learned[here], ids, np.int64(IGNORED))}

    def summary(self) -> str:
        """One line with the number of documents and tokens, and of rows that were left out."""
        lost = f" ({format_counts(self.meta)})" if self.meta["left_out"] else ""
        return f"{len(self):,} rows, {int(self.lengths.sum()):,} tokens{lost}"

    def sample(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return the first document as text, with its special tokens."""
        return str(tokenizer.decode(self.row(0)["input_ids"]))

    def origin(self, index: int) -> str:
        """Return the origin of a document, "file:line"."""
        bounds = _map_array(self.folder, "origin_offsets")
        text = _map_array(self.folder, "origins")[bounds[index] : bounds[index + 1]]
        return bytes(text).decode("utf-8", "surrogateescape")


def split_windows(document: Document, length: int) -> list[Document]:
    """Split a document into windows of at most `length` tokens.

    Each begins with the last token of the previous one, as context only: every token but the first
    of the text is predicted exactly once.
    """
    windows = []
    for start in range(0, max(len(document.ids) - 1, 1), length - 1):
        learned = document.learned[start : start + length].copy()
        learned[:1] = 0
        windows.append(Document(document.ids[start : start + length], learned))
    return windows


def _map_array(folder: Path, name: str) -> np.ndarray:
    path = folder / f"{name}.bin"
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.zeros(0, dtype=ARRAYS[name])
    return np.memmap(path, dtype=ARRAYS[name], mode="r")
