"""Regression cases: files that lost rows silently or ended in a traceback."""

from __future__ import annotations

import gzip
import io
import json
from unittest import mock

import pytest

from ftcli.core.errors import UserError
from ftcli.data import strict_json
from ftcli.data.readers import json_array, lines, read
from ftcli.data.rows import LocatedRowError, RawRow


@pytest.fixture
def items(tmp_path):
    """Return what the reader yields for a file of this name and content."""

    def of(name, data):
        (tmp_path / name).write_bytes(data)
        return list(read(tmp_path / name))

    return of


def refused(items, name, data, line=""):
    """Return the message of a file that is refused as a whole."""
    with pytest.raises(UserError) as caught:
        items(name, data)
    assert not isinstance(caught.value, LocatedRowError) and caught.value.fix
    assert caught.value.where.partition(name)[2] == line
    return caught.value


GOOD = b'{"a": "b"}\n'


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"a": "b", "a": "c"}', "names 'a' more than once"),
        (b'{"a": {"b": 1, "b": 2}}', "names 'b' more than once"),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"a": %s}' % (b"9" * 5000), "thousands of digits"),
        (b'{"a": %s%s}' % (b"[" * 150, b"]" * 150), "nested more than 100"),
        (b"[" * 100_000, "nested more than 100"),
        (b'{"a": "b\x00"}', "NUL byte at position 8"),
        (b'{"a": "caf\xe9"}', "byte 0xe9 at position 10"),
        (b'{"a": "cut', "not valid JSON"),
    ],
)
def test_a_line_that_cannot_be_used_is_one_row_and_named(items, line, what):
    first, bad, last = items("x.jsonl", GOOD + line + b"\n" + GOOD)
    assert isinstance(bad, LocatedRowError) and what in bad.what and bad.where.endswith("x.jsonl:2")
    assert first.values == last.values == {"a": "b"}


def test_characters_beyond_the_basic_plane_may_be_written_as_pairs(items):
    (row,) = items("x.jsonl", b'{"a": "\\ud83d\\ude42 \\u00e9"}')
    assert row.values == {"a": "🙂 é"}


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.txt"])
@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named_with_the_command_that_converts_them(items, name, codec):
    error = refused(items, name, '{"a": "some words"}\n{"a": "more"}\n'.encode(codec), ":1")
    assert "UTF-" in error.what and error.fix.startswith("iconv -f UTF-")


def test_a_file_that_is_packed_says_so(items):
    error = refused(items, "x.jsonl", gzip.compress(GOOD))
    assert "packed with gzip" in error.what and error.fix.startswith("mv ")
    assert "zip archive" in refused(items, "y.csv", b"PK\x03\x04...").what
    assert "damaged or cut off" in refused(items, "z.jsonl.gz", GOOD).what


@pytest.mark.parametrize(("name", "rows"), [("x.jsonl", 3), ("x.txt", 1)])
def test_lines_that_end_in_cr_are_lines(items, name, rows):
    assert len(items(name, GOOD.replace(b"\n", b"\r") * 3)) == rows


def test_csv_lines_that_end_in_cr(items):
    assert [row.values["a"] for row in items("x.csv", b"a,b\r1,2\r3,4")] == ["1", "3"]


def test_a_line_without_end_is_refused_before_memory_is(items, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 64)
    bad, row = items("x.jsonl", b'{"a": "' + b"x" * 999 + b'"}\n' + GOOD)
    assert (
        isinstance(bad, LocatedRowError) and "longer than" in bad.what and row.values == {"a": "b"}
    )


@pytest.mark.parametrize("more", [b"[]", b'{"a": 1}', b"]", b"x"])
def test_what_stands_behind_an_array_is_not_passed_over(items, more):
    error = refused(items, "x.json", b'[{"a": "b"}]\n' + more, ":2")
    assert "follows the end" in error.what


def test_a_byte_in_an_array_that_is_not_utf8_is_found_by_its_line(items):
    error = refused(items, "x.json", b'[{"a": "b"},\n{"a": "\xe9"}]', ":2")
    assert "0xe9" in error.what


def test_rows_on_one_line_have_places_of_their_own(items):
    assert len({row.origin for row in items("x.json", b'[{"a": 1}, {"a": 2}, {"a": 3}]')}) == 3


def test_a_row_of_an_array_that_says_something_twice_is_one_row(items):
    _, bad, last = items("x.json", b'[{"a": 1},\n{"a": 1, "a": 2},\n{"a": 3}]')
    assert "more than once" in bad.what and bad.where.endswith(":2") and last.values == {"a": 3}


def test_arrays_are_read_in_pieces_of_any_size(items, monkeypatch):
    rows = [{"a": "é🙂\\" * i, "n": -1.5e3, "t": True} for i in range(40)]
    for size in (1, 7, 64):
        monkeypatch.setattr(json_array, "CHUNK", size)
        whole = json.dumps(rows, indent=1, ensure_ascii=False).encode()
        assert [row.values for row in items("x.json", whole)] == rows


def test_an_object_with_a_list_is_not_taken_for_lines(items):
    assert [row.values for row in items("x.json", b'{"data": [\n{"a": 1},\n{"a": 2}\n]}')] == [
        {"a": 1}, {"a": 2},
    ]  # fmt: skip


@pytest.mark.parametrize("row", ['{"a": 1, "a": 2}', '{"a": "\\ud800"}', '{"a": tru}'])
def test_an_object_with_a_bad_row_is_refused_as_one(items, row):
    whole = f'{{"data": [\n{row},\n{{"a": 3}}\n]}}'
    assert "x.json" in refused(items, "x.json", whole.encode(), mock.ANY).where


def test_lines_are_lines_in_a_json_file_too_though_the_first_is_broken(items):
    bad, row = items("x.json", b'{"a": \n{"a": 3}\n')
    assert isinstance(bad, LocatedRowError) and row.values == {"a": 3}
    assert items("y.json", b'{"a": 1}\n')[0].values == {"a": 1}


def test_of_two_lists_of_rows_none_is_chosen(items):
    assert "data, train" in refused(items, "x.json", b'{"data": [{}],\n "train": [{}]}').what


def test_a_quote_that_is_never_closed_hides_no_rows(items):
    error = refused(items, "x.csv", b'a,b\n1,2\n3,"4\n5,6\n7,8\n', ":3")
    assert "up to line 5" in error.what and "none is skipped" in error.what


def test_an_open_quote_in_the_last_line_is_one_bad_row(items):
    row, bad = items("x.csv", b'a,b\n1,2\n3,"4')
    assert row.values == {"a": "1", "b": "2"} and bad.where.endswith("x.csv:3")


def test_a_bad_csv_line_does_not_spoil_the_next(items):
    kinds = [type(item) for item in items("x.csv", b'a,b\n"\xff"x,1\n1,2\n')]
    assert kinds == [LocatedRowError, RawRow]


def table(columns, **options):
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def test_parquet_values_that_python_cannot_hold_spoil_their_row_only(items):
    import pyarrow as pa

    when = pa.array([0, 2**62, 0], pa.timestamp("us"))
    first, bad, last = items("x.parquet", table({"a": ["x", "y", "z"], "when": when}))
    assert (first.values["a"], last.values["a"]) == ("x", "z")
    assert isinstance(bad, LocatedRowError) and bad.where.endswith("[1]")
    text = pa.array([b"ok", b"\xff"], pa.binary()).view(pa.string())
    row, bad = items("y.parquet", table({"a": text}))
    assert row.values == {"a": "ok"} and isinstance(bad, LocatedRowError)


def test_parquet_with_a_column_twice_is_refused(items):
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), sink)
    assert "more than one column 'a'" in refused(items, "x.parquet", sink.getvalue()).what


def test_damaged_parquet_is_one_message(items):
    whole = table({"a": ["some text"] * 500}, write_page_checksum=True, compression="none")
    cut = refused(items, "x.parquet", whole[:-20], "[0]")
    at = whole.index(b"some text") + 2
    changed = refused(items, "y.parquet", whole[:at] + b"X" + whole[at + 1 :], "[0]")
    assert cut.what != changed.what


def test_parquet_may_be_packed(items):
    (row,) = items("x.parquet.gz", gzip.compress(table({"a": ["b"]})))
    assert row.values == {"a": "b"}


def test_blank_files_have_no_rows(items):
    for name in ("x.jsonl", "x.json", "x.txt", "x.jsonl.gz"):
        blank = b"\n \r\n\t\n" * 2_000
        assert items(name, gzip.compress(blank) if name.endswith(".gz") else blank) == []
    for blank in (b"", b"\n\n", b" \t\n" * 9, b",,\n"):
        assert "empty" in refused(items, "x.csv", blank).what


def test_depth_is_counted_in_levels_not_in_brackets():
    assert strict_json.load("[" + ",".join(["[]"] * 500) + "]")
    deep = "[" * 100 + "]" * 100
    assert strict_json.load(deep)
    with pytest.raises(ValueError, match="levels"):
        strict_json.load(f"[{deep}]")
