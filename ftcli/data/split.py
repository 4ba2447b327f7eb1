"""Splits of a `data` option: their rows as a stream of examples, and which rows are held out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.data import dataset_errors
from ftcli.data.columns import Columns
from ftcli.data.conversation.exchange import extract_prompt
from ftcli.data.inspection import UnusedColumns, find_unused_columns
from ftcli.data.rows import LocatedRowError, RawRow, RowError, RowOrError
from ftcli.data.source_settings import SourceSettings, TrainingSource, source_key
from ftcli.data.sources import Source, find_source, is_path

if TYPE_CHECKING:
    from ftcli.data.dataset import Data

#: Element of a split's stream for each source row: an example, the error of the row, or None where the row
#: belongs to another split.
SplitEntry = dict[str, Any] | LocatedRowError | None
INSPECTED_ROWS = 256  # first rows by which format and columns are chosen
log = logging.getLogger("ftcli.data")
FULL = 1 << 64  # prompts are hashed to numbers below this


class Split:
    """The rows of a source that belong to one split.

    Args:
        source: source of the rows.
        format: format of the rows, or auto.
        columns: field of the format -> column.
        where: the configuration key that messages name.
        limit: number of source rows that are read; None: all.
        share: share of the source that is held out; None where all of it belongs to this split.
        held_out: whether this split is the held-out side of the share.
        title: name of the source in metrics and messages.
    """

    def __init__(
        self,
        source: Source,
        format: str,
        columns: Mapping[str, str | None],
        where: str,
        limit: int | None = None,
        share: float | None = None,
        held_out: bool = False,
        title: str = "",
    ) -> None:
        self.source, self.format, self.mapping, self.where = source, format, columns, where
        self.limit, self.share, self.held_out, self.title = limit, share, held_out, title

    def held_out_side(self) -> Split:
        """Return the rows of the same source that are held out from this split."""
        args = (self.source, self.format, self.mapping, self.where, self.limit, self.share)
        return Split(*args, held_out=True, title=self.title)

    def open_split(self, name: str, where: str) -> Split:
        """Return another split of the same data set, with the same columns."""
        source = self.source.open_split(name)
        return Split(source, self.known_format, self.mapping, where, title=self.title)

    @property
    def known_format(self) -> str:
        """The format, chosen by the rows where it is auto."""
        return self.columns.format_name if self.format == "auto" else self.format

    @cached_property
    def columns(self) -> Columns:
        """Format and columns, chosen by the first good row.

        Raises:
            UserError: they do not fit, or there is no good row.
        """
        if self._first_rows:
            first, *others = self._first_rows
            values = (row.values for row in others)
            return Columns(
                self.format, self.mapping, first.values, self.where, first.origin, values
            )
        broken = next((item for item in self._items() if isinstance(item, LocatedRowError)), None)
        raise broken or self._make_no_row_error()

    @cached_property
    def unused(self) -> UnusedColumns:
        """Columns from which no field is read, in the first rows."""
        return find_unused_columns(self.columns, (row.values for row in self._first_rows))

    @cached_property
    def _first_rows(self) -> list[RawRow]:
        """Return the first good rows, at most `INSPECTED_ROWS`; fewer where the file cannot be read further."""
        rows: list[RawRow] = []
        items = self._items()
        while len(rows) < INSPECTED_ROWS:
            try:
                item = next(items)
            except StopIteration:
                break
            except UserError:
                if rows:
                    break
                raise
            if not isinstance(item, LocatedRowError):
                rows.append(item)
        return rows

    def _make_no_row_error(self) -> UserError:
        place = self.source.place.partition("\n")[0]
        return UserError(
            f"{place} holds no row.",
            where=self.where,
            fix="check the file; it may have been cut off",
        )

    def entries(self) -> Iterator[SplitEntry]:
        """Yield one entry a source row, in order.

        Rows are held out by a hash of their prompt. A bad row has none, so it belongs to the training split.
        """
        for item in self._items():
            entry = self._read_entry(item)
            if isinstance(entry, LocatedRowError):
                yield None if self.held_out else entry
            else:
                yield entry if entry is None or self._belongs(entry) else None

    def count_rows(self) -> int | None:
        """Return about how many source rows are read, without reading them; None where that is not known."""
        rows = self.source.count_rows()
        return rows if rows is None or self.limit is None else min(rows, self.limit)

    def key(self) -> dict[str, Any]:
        """Return everything that decides the rows of this split, for the key of the token cache."""
        return {
            "content": self.source.content_hash,
            "place": self.source.place,
            "limit": self.limit,
            "format": self.columns.format_name,
            "columns": dict(self.mapping),
            "below": None if self.share is None else self._threshold,
            "held_out": self.held_out,
        }

    def _items(self) -> Iterator[RowOrError]:
        return islice(self.source.rows(), self.limit)

    def _read_entry(self, item: RowOrError) -> SplitEntry:
        if isinstance(item, LocatedRowError):
            return item
        try:
            example = self.columns.build_example(item.values)
        except RowError as error:
            return error.locate(item.origin)
        return {**example, "row": item.values, "origin": item.origin}

    def _belongs(self, example: dict[str, Any]) -> bool:
        if self.share is None:
            return True
        return (hash_prompt(extract_prompt(example)) < self._threshold) == self.held_out

    @cached_property
    def _threshold(self) -> int:
        """Prompts with a hash below this are held out."""
        assert self.share is not None
        entries = (self._read_entry(item) for item in self._items())
        asked = (extract_prompt(entry) for entry in entries if isinstance(entry, dict))
        return find_threshold(self.share, asked)


class Splits:
    """The splits of a `data` option, each opened once."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self._opened: dict[str, list[Split]] = {}

    def open(self, name: str) -> list[Split]:
        """Return the rows of a split, one `Split` for each source that it is read from.

        Raises:
            UserError: the split is not configured, or its source is not there.
        """
        if name not in self._opened:
            self._opened[name] = self._open(name)
        return self._opened[name]

    def _open(self, name: str) -> list[Split]:
        data = self.data
        if name == "train":
            sources = enumerate(data.source_settings)
            return [self._open_source(source, source_key(data, n)) for n, source in sources]
        if name in data.eval_sets:
            return [self._open_source(data.eval_sets[name], f"data.eval_sets.{name}")]
        train = self.open("train")
        if name == "validation" and isinstance(data.validation, float | int):
            return [split.held_out_side() for split in train]
        place = {"validation": data.validation, "test": data.test}.get(name)
        if place is None:
            raise dataset_errors.missing_split_error(name)
        where = f"data.{name}"
        if not is_path(str(place)):
            return [split.open_split(str(place), where) for split in train]
        alone = train[0] if data.sources is None else None
        format, columns = (alone.known_format, alone.mapping) if alone else ("auto", {})
        source = find_source(str(place), "train", data.name, data.revision, data.text_unit)
        return [Split(source, format, columns, where)]

    def _open_source(self, settings: SourceSettings, key: str) -> Split:
        """Open the rows of a source; a share of those that are trained on is held out."""
        data = self.data
        source = self._find(settings, key)
        is_training = isinstance(settings, TrainingSource)
        share = (
            data.validation if is_training and isinstance(data.validation, float | int) else None
        )
        for note in getattr(source, "notes", ()) if is_training else ():
            log.warning(note)
        limits = [n for n in (settings.limit, data.limit if is_training else None) if n is not None]
        return Split(
            source,
            settings.format,
            settings.columns,
            f"{key}.path",
            min(limits, default=None),
            share,
            title=settings.display_name if isinstance(settings, TrainingSource) else "",
        )

    def _find(self, settings: SourceSettings, key: str) -> Source:
        try:
            return find_source(
                settings.path,
                settings.split,
                settings.name,
                settings.revision,
                self.data.text_unit,
            )
        except UserError as error:
            if error.where == "data.path":
                error.where = f"{key}.path"
            raise


def hash_prompt(prompt: str) -> int:
    """Hash a prompt to a number in [0, 2**64), the same on every machine."""
    digest = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def find_threshold(share: float, prompts: Iterable[str]) -> int:
    """Return the threshold: prompts with a hash below it are held out.

    Usually `share` * 2**64. Where no prompt of a small set lies below that, its lowest prompt is held
    out, provided that another is left to train on. Reading stops at the first held-out prompt, after
    1 / share rows on average.
    """
    limit = int(share * FULL)
    lowest, different = FULL, False
    for prompt in prompts:
        number = hash_prompt(prompt)
        if number < limit:
            return limit
        different |= lowest not in (FULL, number)
        lowest = min(lowest, number)
    return lowest + 1 if different else limit
