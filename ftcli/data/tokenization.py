"""Tokenise segments of text with masks of learned tokens; hash tokenizers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

#: Spans of a segment that is learned as a whole.
LEARN_ALL = ((0, 1 << 62),)
BATCH = 512  # texts that are encoded at a time
#: Tokenizer -> hash of its vocabulary and rules.
_hashes: WeakKeyDictionary[object, str] = WeakKeyDictionary()


class Segment(NamedTuple):
    """Text that is tokenised by itself, or token ids.

    `spans` are the learned character ranges [start, end), in order; ids are learned all or not at all.
    """

    content: str | list[int]
    spans: tuple[tuple[int, int], ...] = ()


def encode_segments(
    documents: Sequence[Sequence[Segment]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (ids int32 [n], learned uint8 [n]) of each document, with one call of the tokenizer.

    A token belongs to a span when it begins inside it. Where a token reaches across the beginning
    of a span the text is cut there and tokenised again, because a model that has been given the
    text before the span cannot produce such a token.
    """
    if not tokenizer.is_fast:
        documents = [_cut_at_every_span(document) for document in documents]
        return [
            _join([_encode_slowly(segment, tokenizer) for segment in document])
            for document in documents
        ]
    texts = [p.content for document in documents for p in document if isinstance(p.content, str)]
    whole = [
        all(segment.spans in ((), LEARN_ALL) for segment in document) for document in documents
    ]
    encoded: Iterator[Encoding | list[int]] = iter(
        _encode_ids(texts, tokenizer) if all(whole) else _encode_texts(texts, tokenizer)
    )
    encoded_documents = []
    for document, is_whole in zip(documents, whole, strict=True):
        pieces = [next(encoded) if isinstance(p.content, str) else p.content for p in document]
        if is_whole:
            encoded_documents.append(_join_whole(document, pieces))
        else:
            both = zip(document, pieces, strict=True)
            parts = [_mask_tokens(segment, piece, tokenizer) for segment, piece in both]
            encoded_documents.append(_join(parts))
    return encoded_documents


def _join_whole(
    row: Sequence[Segment], pieces: Sequence[Encoding | list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask of a row whose segments are learned as a whole or not at all."""
    ids: list[int] = []
    learned = []
    for segment, piece in zip(row, pieces, strict=True):
        start = len(ids)
        ids += piece if isinstance(piece, list) else piece.ids
        if segment.spans:
            learned.append(slice(start, len(ids)))
    mask = np.zeros(len(ids), dtype=np.uint8)
    for span in learned:
        mask[span] = 1
    return np.array(ids, dtype=np.int32), mask


def _encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Encoding]:
    """Encode texts without special tokens, padding or truncation.

    The backend is called directly, which halves the time: the wrapper's further lists (attention masks
    and others) take as long as the tokenising.
    """
    return list(_set_up_backend(tokenizer).encode_batch(texts, add_special_tokens=False))


def _encode_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Yield the ids of each text, without offsets: a fifth faster, and encodings do not pile up in memory."""
    backend = _set_up_backend(tokenizer)
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
            yield encoding.ids


def _set_up_backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the tokenizer behind the wrapper, without padding and truncation.

    Settings that are right are left alone: they cannot be changed while another thread encodes.
    """
    backend = tokenizer.backend_tokenizer
    if backend.padding is not None:
        backend.no_padding()
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.encode_special_tokens != tokenizer.split_special_tokens:
        backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend


def _mask_tokens(
    segment: Segment, encoding: Encoding | list[int], tokenizer: PreTrainedTokenizerBase
) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(encoding, list):
        return _take_ids(segment)
    ids = np.array(encoding.ids, dtype=np.int32)
    if segment.spans in ((), LEARN_ALL):
        return ids, np.full(len(ids), bool(segment.spans), dtype=np.uint8)
    starts, ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
    for start, _ in segment.spans:
        if start > 0 and np.any((starts < start) & (ends > start)):
            return _join(encode_at_cut(segment, start, tokenizer))
    learned = np.zeros(len(ids), dtype=bool)
    for start, end in segment.spans:
        learned |= (starts >= start) & (starts < end) & (ends > starts)
    return ids, learned.astype(np.uint8)


def encode_at_cut(
    segment: Segment, at: int, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tokenise both sides of a cut apart."""
    assert isinstance(segment.content, str)
    sides = [
        Segment(segment.content[:at], _clip_spans(segment.spans, 0, at)),
        Segment(segment.content[at:], _clip_spans(segment.spans, at, len(segment.content))),
    ]
    return encode_segments([[side] for side in sides], tokenizer)


def _clip_spans(
    spans: Sequence[tuple[int, int]], low: int, high: int
) -> tuple[tuple[int, int], ...]:
    """Clip spans to [low, high) and shift them by -`low`."""
    clipped = [(max(start, low) - low, min(end, high) - low) for start, end in spans]
    return tuple((start, end) for start, end in clipped if start < end)


def _cut_at_every_span(row: Sequence[Segment]) -> list[Segment]:
    """Cut segments at every span, for tokenizers that give no character offsets."""
    cut: list[Segment] = []
    for segment in row:
        if isinstance(segment.content, list) or segment.spans in ((), LEARN_ALL):
            cut.append(segment)
            continue
        at = 0
        for start, end in segment.spans:
            cut += [
                Segment(segment.content[at:start]),
                Segment(segment.content[start:end], LEARN_ALL),
            ]
            at = end
        cut.append(Segment(segment.content[at:]))
    return [segment for segment in cut if segment.content]


def _encode_slowly(
    segment: Segment, tokenizer: PreTrainedTokenizerBase
) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(segment.content, list):
        return _take_ids(segment)
    ids = np.asarray(tokenizer.encode(segment.content, add_special_tokens=False), dtype=np.int32)
    return ids, np.full(len(ids), bool(segment.spans), dtype=np.uint8)


def _take_ids(segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    ids = np.asarray(segment.content, dtype=np.int32)
    return ids, np.full(len(ids), bool(segment.spans), dtype=np.uint8)


def _join(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of vocabulary, rules and special tokens; the chat template is not part of it."""
    vocabulary = _hashes.get(tokenizer)
    if vocabulary is None:
        vocabulary = hashlib.blake2b(
            _describe_rules(tokenizer).encode(), digest_size=16
        ).hexdigest()
        _hashes[tokenizer] = vocabulary
    special = json.dumps([tokenizer.bos_token_id, tokenizer.eos_token_id])
    return hashlib.blake2b((vocabulary + special).encode(), digest_size=16).hexdigest()


def _describe_rules(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Padding and truncation, which stand before the added tokens, change with every call.
        return str(backend.to_str()).partition('"added_tokens"')[2]
    vocabulary = sorted(tokenizer.get_vocab().items())
    return json.dumps([type(tokenizer).__name__, vocabulary], default=str)
