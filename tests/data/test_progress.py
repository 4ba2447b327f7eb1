"""The display of a long preparation, and the number of rows that a file is expected to have."""

from __future__ import annotations

import gzip
import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftcli.core.errors import UserError
from ftcli.data import preparation, progress
from ftcli.data.dataset import Data
from ftcli.data.readers import count_rows

ROWS = [{"prompt": f"ask {n}", "completion": "say"} for n in range(50)]


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": 2}\n', 2),
        ("a.jsonl", b'{"a": 1}\n{"a": 2}', 2),
        ("a.jsonl", b"", 0),
        ("a.csv", b"a,b\n1,2\n3,4\n", 2),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0), None),
        ("a.json", b"[]", None),
    ],
)
def test_rows_are_counted_without_parsing_where_a_line_is_a_row(tmp_path, name, content, rows):
    (tmp_path / name).write_bytes(content)
    assert count_rows(tmp_path / name) == rows


def test_parquet_says_its_rows_and_is_prepared_like_lines(tmp_path, tokenizer, write_rows):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    assert count_rows(path) == 50
    lines = Data(str(write_rows(ROWS))).prepare("train", tokenizer)
    assert Data(str(path)).prepare("train", tokenizer).fingerprint == lines.fingerprint


def test_a_long_preparation_says_rows_and_speed(write_rows, tokenizer, monkeypatch, capsys):
    """A clock that makes each reading 6 seconds: a line every 10 seconds, and one at the end."""
    monkeypatch.delenv("FTCLI_QUIET", raising=False)
    monkeypatch.setattr(preparation, "CHUNK", 10)
    clock = itertools.count(0, 6)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    data = Data(str(write_rows(ROWS)))
    progress.console.cache_clear()  # one that writes into what pytest reads
    with progress.PreparationDisplay() as display:
        data.prepare("train", tokenizer, display)
    progress.console.cache_clear()
    shown = capsys.readouterr().err
    assert "train: 30 rows, 2 rows/s of about 50" in shown
    assert "train: 50 rows read in 30.0 s (2 rows/s)" in shown
    with progress.PreparationDisplay() as display:
        data.prepare("train", tokenizer, display)
    assert capsys.readouterr().err == ""  # nothing is prepared the second time


def test_an_error_of_reading_comes_after_the_rows_before_it(write_rows, tokenizer, monkeypatch):
    """The next chunk is read ahead, but a document that is too long stands before the broken row."""
    monkeypatch.setattr(preparation, "CHUNK", 5)
    long = {"prompt": "a", "completion": "b " * 100}
    path = write_rows([*ROWS[:4], long, *ROWS[:3]])
    with open(path, "a", encoding="utf-8") as file:
        file.write("not json\n")
    with pytest.raises(UserError, match="tokens, data.max_length is 40"):
        Data(str(path), max_length=40, overlong="error").prepare("train", tokenizer)
    with pytest.raises(UserError, match="not valid JSON"):
        Data(str(path), max_length=400).prepare("train", tokenizer)
