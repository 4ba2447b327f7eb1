"""Tokenised documents, and the memory-mapped arrays of a prepared split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from ftcli.data.mixture import Mixture, Share
from ftcli.data.statistics import format_counts, merge_metas

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Files of a cache folder and the type of their elements.
ARRAYS = {
    "ids": np.int32,
    "loss_mask": np.uint8,
    "offsets": np.int64,
    "origins": np.uint8,
    "origin_offsets": np.int64,
}
IGNORED = -100


class Document(NamedTuple):
    """One sequence: ids int32 [n] and loss_mask uint8 [n] (1 where a token is learned).

    `dropped_content` are the kinds of content that the chat template drops.
    """

    ids: np.ndarray
    loss_mask: np.ndarray
    dropped_content: tuple[str, ...] = ()

    def cut(self, length: int) -> Document:
        """Return the first `length` tokens."""
        return Document(self.ids[:length], self.loss_mask[:length], self.dropped_content)


class TokenizedDocument(TypedDict):
    """One document: input_ids int32 [n]; labels int64 [n], -100 where nothing is learned."""

    input_ids: np.ndarray
    labels: np.ndarray


class TokenizedSplit:
    """The tokenised documents of one split, those of each source one after the other.

    Args:
        folders: a finished folder of the token cache for each source.
        mixture: how the sources share an epoch; None: every row once.
    """

    def __init__(self, *folders: Path, mixture: Mixture | None = None) -> None:
        self.folders = list(folders)
        self.mixture = mixture or Mixture(tuple(str(n) for n in range(len(folders))))
        self.metas: list[dict[str, Any]] = [
            json.loads((folder / "meta.json").read_text(encoding="utf-8")) for folder in folders
        ]
        self.ids = _join_arrays([_map_array(folder, "ids") for folder in folders])
        self.loss_mask = _join_arrays([_map_array(folder, "loss_mask") for folder in folders])
        offsets = [np.asarray(_map_array(folder, "offsets")) for folder in folders]
        self.sizes = [len(part) - 1 for part in offsets]  # documents of each source
        self.offsets = join_offsets(offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each document, int64 [documents]."""
        return np.diff(self.offsets)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Counts of all sources together, as `meta.json` holds them for each."""
        return merge_metas(self.metas)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all ids and masks in order."""
        prints = [str(meta["fingerprint"]) for meta in self.metas]
        if len(prints) == 1:
            return prints[0]
        return hashlib.blake2b("".join(prints).encode(), digest_size=16).hexdigest()

    @property
    def skipped(self) -> int:
        """Number of rows left out because they could not be used."""
        return int(self.meta["skipped"])

    def row(self, index: int) -> TokenizedDocument:
        """Return one document."""
        span = slice(self.offsets[index], self.offsets[index + 1])
        ids = np.asarray(self.ids[span])
        return {"input_ids": ids, "labels": np.where(self.loss_mask[span], ids, np.int64(IGNORED))}

    def find_sources(self, rows: Sequence[int]) -> np.ndarray:
        """Return the number of the source of each document, int64 [rows]."""
        return np.searchsorted(
            np.cumsum(self.sizes), np.asarray(rows, dtype=np.int64), side="right"
        )

    def list_shares(self, group: int = 1) -> list[Share]:
        """Return what each source gives to an epoch; `group` neighbouring documents are one row."""
        supervised = [int(meta["supervised"]) for meta in self.metas]
        return self.mixture.list_shares([size // group for size in self.sizes], supervised)

    def summary(self) -> str:
        """One line with the number of documents and tokens, and of rows that were left out."""
        left_out = f" ({format_counts(self.meta)})" if self.meta["left_out"] else ""
        return f"{len(self):,} rows, {int(self.lengths.sum()):,} tokens{left_out}"

    def sample(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return the first document as text, with its special tokens."""
        return str(tokenizer.decode(self.row(0)["input_ids"]))

    def origin(self, index: int) -> str:
        """Return the origin of a document, "file:line"."""
        source = int(self.find_sources([index])[0])
        folder, place = self.folders[source], index - sum(self.sizes[:source])
        bounds = _map_array(folder, "origin_offsets")
        text = _map_array(folder, "origins")[bounds[place] : bounds[place + 1]]
        return bytes(text).decode("utf-8", "surrogateescape")


class JoinedArray:
    """Arrays addressed as one concatenation, without copying; a slice must lie within one of them."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *map(len, parts)])

    def __getitem__(self, span: slice) -> np.ndarray:
        part = int(np.searchsorted(self.starts, span.start, side="right")) - 1
        start = self.starts[part]
        return self.parts[part][span.start - start : span.stop - start]


def _join_arrays(parts: Sequence[np.ndarray]) -> np.ndarray | JoinedArray:
    return parts[0] if len(parts) == 1 else JoinedArray(parts)


def join_offsets(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the offsets of documents end to end, given those of each source, which begin at 0."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(part[-1] for part in parts)])
    shifted = [part[1:] + start for part, start in zip(parts, starts, strict=False)]
    return np.concatenate([np.zeros(1, dtype=np.int64), *shifted])


def split_windows(document: Document, length: int) -> list[Document]:
    """Split a document into windows of at most `length` tokens.

    Each begins with the last token of the previous one, as context only: every token but the first
    of the text is predicted exactly once.
    """
    windows = []
    for start in range(0, max(len(document.ids) - 1, 1), length - 1):
        loss_mask = document.loss_mask[start : start + length].copy()
        loss_mask[:1] = 0
        windows.append(Document(document.ids[start : start + length], loss_mask))
    return windows


def _map_array(folder: Path, name: str) -> np.ndarray:
    path = folder / f"{name}.bin"
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.zeros(0, dtype=ARRAYS[name])
    return np.memmap(path, dtype=ARRAYS[name], mode="r")
