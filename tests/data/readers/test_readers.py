"""Readers yield every row once, name the origin of a bad row, and fail in no other way."""

from __future__ import annotations

import csv
import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftcli.core.errors import UserError
from ftcli.data.readers import can_read, read
from ftcli.data.readers.encoding import MARKS, PACKED
from ftcli.data.rows import RawRow

FAST = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), TEXT, st.lists(TEXT, max_size=3))
ROWS = st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=8)


@FAST
@given(ROWS, st.booleans())
def test_jsonl_gives_back_what_was_written(tmp_path, rows, packed):
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    items = list(read(path))
    assert [item.values for item in items] == rows
    assert [item.origin for item in items] == [f"{path}:{i + 1}" for i in range(len(rows))]


@FAST
@given(ROWS, st.integers(0, 2), st.sampled_from(["array", "held"]))
def test_json_gives_back_what_was_written(tmp_path, rows, indent, shape):
    path = tmp_path / "rows.json"
    whole = rows if shape == "array" else {"data": rows}
    path.write_text(json.dumps(whole, indent=indent or None), encoding="utf-8")
    assert [item.values for item in read(path)] == rows


@FAST
@given(
    st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=6),
    st.sampled_from([("rows.csv", ","), ("rows.tsv", "\t")]),
)
def test_csv_gives_back_what_was_written(tmp_path, records, kind):
    name, delimiter = kind
    path = tmp_path / name
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([["a", "b"], *records])
    assert [list(item.values.values()) for item in read(path)] == records


@FAST
@given(st.binary(max_size=200), st.sampled_from(["x.jsonl", "x.json", "x.csv", "x.txt", "x.tsv"]))
def test_any_bytes_give_rows_or_user_errors(tmp_path, data, name):
    path = tmp_path / name
    path.write_bytes(data)
    try:
        items = list(read(path))
    except UserError as error:
        assert str(path) in str(error)
        return
    assert all(isinstance(item, RawRow | UserError) for item in items)


@FAST
@given(st.binary(max_size=200), st.sampled_from(["x.jsonl.gz", "x.parquet", "x.json.gz"]))
def test_damaged_containers_give_user_errors(tmp_path, data, name):
    path = tmp_path / name
    path.write_bytes(data)
    try:
        list(read(path))
    except UserError as error:
        assert str(path) in str(error)


@FAST
@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b""))))
def test_no_line_of_jsonl_is_dropped_silently(tmp_path, lines):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    written = [
        line
        for line in b"\n".join(lines).removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if line.decode("utf-8", errors="replace").strip()
    ]
    try:
        count = len(list(read(path)))
    except UserError as error:
        whole = path.read_bytes()
        assert b"\0" in whole or whole.startswith((*MARKS, *PACKED, b"\x1f\x8b")), "text is refused"
        assert str(path) in str(error.where) and error.fix
        return
    assert count == len(written)


def test_a_bad_line_is_named_and_the_rest_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n[1]\n\xff\xfe\n\n{"a": 2}\n')
    items = list(read(path))
    assert [item.values for item in items if isinstance(item, RawRow)] == [{"a": 1}, {"a": 2}]
    errors = [item for item in items if isinstance(item, UserError)]
    assert [error.where for error in errors] == [f"{path}:{n}" for n in (2, 3, 4)]
    assert "not valid JSON" in errors[0].what
    assert "a list" in errors[1].what
    assert "not UTF-8" in errors[2].what


def test_a_csv_record_with_the_wrong_number_of_fields_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n1,2\n"x\ny",3\n1,2,3\n4,5\n', encoding="utf-8")
    items = list(read(path))
    assert [i.origin for i in items if isinstance(i, RawRow)] == [f"{path}:{n}" for n in (2, 3, 6)]
    (error,) = [i for i in items if isinstance(i, UserError)]
    assert error.where == f"{path}:5"
    assert "3 fields" in error.what


def test_a_broken_array_is_never_skipped_over(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1},\n {"a": }\n]', encoding="utf-8")
    with pytest.raises(UserError, match="not valid JSON") as caught:
        list(read(path))
    assert caught.value.where == f"{path}:2"


def test_a_gz_that_was_cut_off_says_how_far_it_came(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % i for i in range(2000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or cut off"):
        list(read(path))


def test_parquet_rows_and_columns(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": "a", "refs": ["x", "y"]}, {"prompt": "b", "refs": []}]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    items = list(read(path))
    assert [item.values for item in items] == rows
    assert items[1].origin == f"{path}[1]"


@pytest.mark.parametrize(
    ("unit", "texts"),
    [("file", ["one\n\ntwo\nthree"]), ("paragraph", ["one", "two\nthree"]),
     ("line", ["one", "two", "three"])],
)  # fmt: skip
def test_text_by_unit(tmp_path, unit, texts):
    path = tmp_path / "book.txt"
    path.write_text("one\n\ntwo\nthree\n", encoding="utf-8")
    assert [item.values["text"] for item in read(path, unit)] == texts


def test_a_long_text_becomes_pieces_that_lose_nothing(tmp_path):
    path = tmp_path / "book.txt"
    paragraphs = [f"paragraph {i} " + "word " * 200 for i in range(300)]
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    pieces = [item.values["text"] for item in read(path)]
    assert len(pieces) > 3
    assert [p.strip() for piece in pieces for p in piece.split("\n\n")] == [
        p.strip() for p in paragraphs
    ]


def test_an_unknown_suffix_says_what_is_understood(tmp_path):
    path = tmp_path / "rows.xlsx"
    path.touch()
    assert not can_read(path)
    with pytest.raises(UserError, match="have no reader") as caught:
        read(path)
    assert ".jsonl" in str(caught.value)
