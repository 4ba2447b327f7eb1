"""What a data file holds, for a job that is written to fit it: rows, prompts, format and columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ftcli.core.errors import UserError
from ftcli.data import formats
from ftcli.data.advice import Advice
from ftcli.data.columns import Columns
from ftcli.data.conversation.exchange import prompt_of
from ftcli.data.rows import Row, Unusable
from ftcli.data.sources import Source

MOST = 5000  # rows that are counted


@dataclass(frozen=True)
class Survey:
    """Figures of the first `MOST` rows.

    Attributes:
        rows: rows that give an example.
        prompts: different prompts among them.
        format: of the rows.
        columns: field -> column, of fields that other columns than those of their names hold.
        others: further formats that fit the columns as well.
    """

    rows: int
    prompts: int
    format: str
    columns: dict[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def survey(source: Source, where: str) -> Survey | None:
    """Look a source over; None where its first row has no columns.

    Raises:
        UserError: the columns fit no format, also under the names that such columns often have.
    """
    first = next(_rows(source), None)
    if first is None or not first.values:
        return None
    advice = Advice(first.values, where, first.origin)
    fitting = [name for name in formats.names() if advice.fits(name)]
    guesses = [] if fitting else [name for name in formats.names() if advice.mapping(name)]
    mapping = advice.mapping(guesses[0]) or {} if guesses else {}
    several = fitting if len(fitting) > 1 else []
    name = next(iter(guesses or several), "auto")  # which refuses what cannot be told
    columns = Columns(name, mapping, first.values, where, first.origin)
    asked = list(_prompts(source, columns))
    return Survey(len(asked), len(set(asked)), columns.name, mapping, tuple(fitting[1:]))


def _rows(source: Source) -> Iterator[Row]:
    return (item for item in islice(source.rows(), MOST) if isinstance(item, Row))


def _prompts(source: Source, columns: Columns) -> Iterator[Any]:
    for row in _rows(source):
        try:
            yield prompt_of(columns.example(row.values))
        except (Unusable, UserError):
            continue
