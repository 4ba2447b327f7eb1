"""Tokenise a stream of examples into the cache, chunk by chunk, and count what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from typing import Any, Literal, NamedTuple

from ftcli.core.errors import UserError
from ftcli.data.cache import Writer
from ftcli.data.chat_templates.dropped_content import DROP_KINDS, make_dropped_content_error
from ftcli.data.render import DocumentText, Renderer
from ftcli.data.rows import LocatedRowError, RowError
from ftcli.data.split import Split, SplitEntry
from ftcli.data.statistics import RowCounts
from ftcli.data.tokenization import hash_tokenizer
from ftcli.data.tokens import Document

VERSION = 4  # of the preparation algorithm; part of every cache key
CHUNK = 2000  # source rows that are tokenised together
MAX_CHARACTERS = 1 << 24  # characters of a chunk, which bounds memory where rows are long
COMMIT = 1_000_000  # tokens between two commits: seconds of work, and each waits for the disk


#: Source rows, and the rendered segments of those of them that are examples.
Chunk = tuple[list[SplitEntry], list[list[DocumentText] | RowError]]


class PreparationTask(NamedTuple):
    """A preparation under way: its name in messages, and the rows."""

    name: str
    rows: Split


#: Called with what is being prepared and the counts so far, after each chunk that is written.
Progress = Callable[[PreparationTask, RowCounts], None]


class Preparation:
    """Fills a writer from a stream of entries.

    Args:
        renderer: turns examples into documents.
        on_error: stop at the first row that cannot be used, or skip and count such rows.
        overlong: what happens to documents above the renderer's `max_length`.
        on_dropped_content: what happens when the chat template does not write what the data contain.

    Attributes:
        progress: called with the counts after each chunk.
    """

    def __init__(
        self,
        renderer: Renderer,
        on_error: Literal["stop", "skip"],
        overlong: Literal["truncate", "drop", "error"],
        on_dropped_content: Literal["refuse", "warn"],
    ) -> None:
        self.renderer, self.on_error, self.overlong = renderer, on_error, overlong
        self.on_dropped_content = on_dropped_content
        self.progress: Callable[[RowCounts], None] | None = None
        self.max_length = renderer.rendering.max_length

    def settings(self, split: Split) -> dict[str, Any]:
        """Return everything that decides the tokens of a split, except `data.text_unit`."""
        tokenizer = self.renderer.tokenizer
        return {
            "version": VERSION,
            "rows": split.key(),
            "rendering": asdict(self.renderer.rendering),
            "overlong": self.overlong,
            "on_error": self.on_error,
            "tokenizer": hash_tokenizer(tokenizer),
            "chat_template": getattr(tokenizer, "chat_template", None),
        }

    def fill(self, writer: Writer, entries: Iterable[SplitEntry]) -> dict[str, Any]:
        """Append the documents of all entries; return the counts as `meta.json` holds them.

        Raises:
            UserError: a row cannot be used and `on_error` is stop, nothing would be learned, or the
                template drops content and `on_dropped_content` is refuse.
        """
        self.counts = RowCounts(**writer.state)
        self.writer = writer
        chunks = _split_chunks(islice(iter(entries), self.counts.entries, None))
        for chunk, rendered in _read_ahead(map(self._render_segments, chunks)):
            self._tokenize_and_write_chunk(chunk, rendered)
            self.counts.entries += len(chunk)
            if self.counts.rows and not self.counts.supervised:
                raise self._make_no_labels_error()
            if writer.tokens - writer.committed >= COMMIT:
                writer.commit(asdict(self.counts))
            self.check_dropped_content(asdict(self.counts))
            if self.progress:
                self.progress(self.counts)
        return asdict(self.counts)

    def take_examples(
        self, entries: Iterable[SplitEntry], count: int
    ) -> list[tuple[dict[str, Any], list[Document]]]:
        """Return the first `count` examples and their documents, cut at `max_length`; sets `counts`.

        Raises:
            UserError: a row cannot be used and `on_error` is stop.
        """
        self.counts = RowCounts()
        examples: list[tuple[dict[str, Any], list[Document]]] = []
        for entry in entries:
            self.counts.entries += 1
            if isinstance(entry, LocatedRowError):
                self._skip(entry)
            elif entry is None:
                self.counts.other_split += 1
            elif isinstance(documents := self.renderer.tokenize_documents([entry])[0], RowError):
                self._skip(documents.locate(entry["origin"]))
            else:
                examples.append((entry, [document.cut(self.max_length) for document in documents]))
                if len(examples) == count:
                    break
        self.counts.used = len(examples)
        return examples

    def _render_segments(self, chunk: list[SplitEntry]) -> Chunk:
        examples = [entry for entry in chunk if isinstance(entry, dict)]
        return chunk, self.renderer.render_segments(examples)

    def _tokenize_and_write_chunk(
        self, chunk: Sequence[SplitEntry], rendered: Sequence[list[DocumentText] | RowError]
    ) -> None:
        for entry in chunk:
            self.counts.other_split += entry is None
            if isinstance(entry, LocatedRowError):
                self._skip(entry)
        examples = [entry for entry in chunk if isinstance(entry, dict)]
        tokenized = self.renderer.tokenize_documents(examples, rendered)
        for example, documents in zip(examples, tokenized, strict=True):
            if isinstance(documents, RowError):
                self._skip(documents.locate(example["origin"]))
                continue
            self.counts.rows += 1
            for document in documents:
                self.counts.count_dropped_content(document.dropped_content, example["origin"])
            dropped = self.counts.dropped
            fitting = [f for d in documents if (f := self._fit_length(d, example)) is not None]
            if self.renderer.rendering.pairs and len(fitting) < len(documents):
                self.counts.partners += len(fitting)
                fitting = []
            if fitting:
                self.counts.used += 1
            elif self.counts.dropped > dropped:
                self.counts.add_left_out("too long", example["origin"])
            else:
                self.counts.add_left_out("no labels", example["origin"])
            for document in fitting:
                self.counts.supervised += int(document.loss_mask.sum())
                self.writer.append(document, example["origin"])

    def _fit_length(self, document: Document, example: dict[str, Any]) -> Document | None:
        """Cut a document to `max_length`; None where it is left out."""
        counts, length = self.counts, len(document.ids)
        if length > counts.longest:
            counts.longest, counts.longest_row = length, example["origin"]
        if length > self.max_length:
            counts.overlong += 1
            if self.overlong == "error":
                raise _make_length_error(length, self.max_length, example["origin"])
            if self.overlong == "drop":
                counts.dropped += 1
                return None
            document = document.cut(self.max_length)
        if not document.loss_mask.any():
            counts.without_labels += 1
            return None
        return document

    def check_dropped_content(self, counts: Mapping[str, Any]) -> None:
        """Stop where the chat template drops what the data contain.

        Args:
            counts: the counts so far, or those of a cache that was written with `on_dropped_content=warn`.

        Raises:
            UserError: content was dropped, and `on_dropped_content` is refuse.
        """
        if (
            self.on_dropped_content == "refuse"
            and DROP_KINDS.keys() & counts["dropped_content"].keys()
        ):
            raise make_dropped_content_error(counts, self.renderer.chat.program.source)

    def _skip(self, row: LocatedRowError) -> None:
        count_row_error(row, self.counts, self.on_error)

    def _make_no_labels_error(self) -> UserError:
        counts = self.counts
        if counts.overlong >= counts.without_labels + counts.dropped:
            why = f"their answers begin after data.max_length={self.max_length} tokens"
            fix = f"raise data.max_length (the longest row has {counts.longest:,} tokens)"
        elif self.renderer.uses_markers:
            why = "the chat template's {% generation %} markers enclose no answer"
            fix = "fix the markers in model.chat_template, or remove them: answers are then found "
            fix += "by prefix differencing"
        else:
            why = "the chat template shows nothing that the assistant wrote"
            fix = "set another model.chat_template, or data.train_on=all"
        rows = f"{counts.without_labels + counts.dropped:,} of {counts.rows:,}"
        named = counts.left_out_rows
        first = next(iter([*named.get("no labels", ()), *named.get("too long", ())]), "")
        return UserError(
            f"no token is learned in {rows} rows: {why}. First: {first}",
            where="data",
            fix=f"{fix}; see: ftcli preview",
        )


def count_entries(entries: Iterable[SplitEntry], on_error: Literal["stop", "skip"]) -> RowCounts:
    """Count the rows of a split without tokenising them.

    Raises:
        UserError: a row cannot be used and `on_error` is stop.
    """
    counts = RowCounts()
    for entry in entries:
        counts.entries += 1
        counts.other_split += entry is None
        if isinstance(entry, LocatedRowError):
            count_row_error(entry, counts, on_error)
    return counts


def count_row_error(
    row: LocatedRowError, counts: RowCounts, on_error: Literal["stop", "skip"]
) -> None:
    """Count a row that cannot be used.

    Raises:
        LocatedRowError: `on_error` is stop, and the data do not exclude the row themselves.
    """
    if on_error == "stop" and not row.intended:
        raise row
    counts.add_row_error(row)


def _make_length_error(length: int, limit: int, origin: str) -> UserError:
    return UserError(
        f"has {length:,} tokens, data.max_length is {limit:,}.",
        where=origin,
        fix="raise data.max_length, or set data.overlong=truncate or data.overlong=drop",
    )


def _split_chunks(stream: Iterator[SplitEntry]) -> Iterator[list[SplitEntry]]:
    chunk, weight = [], 0
    for entry in stream:
        chunk.append(entry)
        weight += _count_characters(entry)
        if len(chunk) == CHUNK or weight > MAX_CHARACTERS:
            yield chunk
            chunk, weight = [], 0
    if chunk:
        yield chunk


def _read_ahead(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks; a thread renders the next one while the caller tokenises the present one.

    The tokenizer releases the interpreter lock. An error is raised at the position of its chunk.
    """
    with ThreadPoolExecutor(1, "ftcli-rows") as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            yield chunk


def _count_characters(entry: SplitEntry) -> int:
    """Count the characters of a row's texts; those of nested values, such as messages, do not count."""
    if not isinstance(entry, dict):
        return 0
    return sum(len(value) for value in entry["row"].values() if isinstance(value, str))
