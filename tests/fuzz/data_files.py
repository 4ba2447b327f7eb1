"""Data files, most of them broken, and what a careful reader would say of each: how many rows it has."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.data_rows import BROKEN_JSON, TOO_MUCH, USELESS_JSON, Made, bent, good

KINDS = ("jsonl", "json", "csv", "tsv", "text", "parquet")
FORMATS = ("prompt", "chat", "preference", "instruction", "text")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class DataFile:
    """One file.

    Attributes:
        kind: type of the file.
        defect: what was done to the whole of it; "" for nothing.
        rows: how many there are; None where nobody can tell.
        fit: of these, the values of those that have to be trained on, in order.
        refusal: whether it has to be refused as a whole; None: may be.
        settings: of the data group.
    """

    kind: str
    name: str
    data: bytes
    rows: int | None
    fit: list[dict[str, Any]]
    defect: str = ""
    refusal: bool | None = False
    settings: dict[str, Any] = field(default_factory=dict)

    def broken(self, defect: str, data: bytes, refusal: bool | None = True) -> DataFile:
        """The same with other bytes, of which only the refusal is known."""
        return replace(self, defect=defect, data=data, rows=None, fit=[], refusal=refusal)


@st.composite
def data_files(draw: Any) -> DataFile:
    """Any kind of file, whole or broken."""
    kind = draw(st.sampled_from(KINDS))
    format = "text" if kind == "text" else draw(st.sampled_from(FORMATS))
    if kind in ("csv", "tsv") and format == "chat":
        format = "prompt"
    least = draw(st.sampled_from([0, 1, 3, 6]))
    rows = draw(
        st.lists(st.one_of(good(format), good(format), bent(format)), min_size=least, max_size=9)
    )
    file = draw(MAKERS[kind](rows))
    settings = {"format": format, "pairs": format == "preference"}
    settings["overlong"] = draw(st.sampled_from(["truncate", "drop"]))
    settings["max_length"] = draw(st.sampled_from([16, 128, 100_000]))
    if settings["max_length"] < 100_000:  # a row that is cut or left out may have nothing to learn
        file = replace(file, fit=[])
    if file.refusal is False and (not file.fit or not rows[:1] or not rows[0].fit):
        file = replace(file, refusal=None)  # the columns are judged by the first row
    return draw(packed(replace(file, settings=settings | file.settings)))


def _mostly_whole(*defects: str) -> list[str]:
    """To draw from: as often "" as a defect."""
    return [*[""] * len(defects), *defects]


def _lines(rows: list[Made]) -> list[bytes]:
    return [row.raw for row in rows]


def _fit(rows: list[Made]) -> list[dict[str, Any]]:
    return [row.values for row in rows if row.fit and row.values is not None]


@st.composite
def jsonl(draw: Any, rows: list[Made]) -> DataFile:
    for raw in draw(
        st.lists(st.sampled_from([*BROKEN_JSON, *USELESS_JSON, *TOO_MUCH]), max_size=3)
    ):
        made = Made(None, raw if isinstance(raw, bytes) else raw.encode(), False)
        rows.insert(draw(st.integers(0, len(rows))), made)
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \t\n"]))
    data = end.join(_lines(rows)) + draw(st.sampled_from([b"", end]))
    return draw(whole_text(DataFile("jsonl", "rows.jsonl", data, len(rows), _fit(rows))))


@st.composite
def array(draw: Any, rows: list[Made]) -> DataFile:
    for raw in draw(st.lists(st.sampled_from(USELESS_JSON), max_size=2)):
        rows.insert(draw(st.integers(0, len(rows))), Made(None, raw.encode(), False))
    inside = draw(st.sampled_from([b",", b",\n", b" ,\r\n  "])).join(_lines(rows))
    shape = draw(
        st.sampled_from(
            [*["array"] * 6, *["held"] * 3, "cut", "more", "broken", "much", "two", "none"]
        )
    )
    file = DataFile("json", "rows.json", b"[" + inside + b"]", len(rows), _fit(rows))
    if shape == "held":
        faulty = any(row.values is None for row in rows)  # one object: it is read whole or not
        refusal = None if faulty else False
        return replace(file, data=b'{"version": 1, "data": ' + file.data + b"}", refusal=refusal)
    if shape == "cut":
        return file.broken("cut off", file.data[: draw(st.integers(1, len(file.data) - 1))])
    if shape == "more":
        more = draw(st.sampled_from([b"[]", b'{"prompt": "a"}', b"]", b"x", b"\x00"]))
        return file.broken("more behind the array", file.data + b"\n" + more)
    if shape == "broken":
        raw = draw(st.sampled_from(BROKEN_JSON))
        return file.broken("a broken element", b"[" + raw + b"," + inside + b"]")
    if shape == "much":
        raw = draw(st.sampled_from(TOO_MUCH)).encode()
        return file.broken("too much for the parser", b"[" + raw + b"," + inside + b"]")
    if shape == "two":
        data = b'{"data": ' + file.data + b',\n"train": ' + file.data + b"}"
        return file.broken("two lists of rows", data)
    if shape == "none":
        data = draw(
            st.sampled_from(
                [b'"rows"', b"7", b'{\n"a": 1}', b'{"data": 1,\n"b": [1]}', b"[" * 90_000]
            )
        )
        return file.broken("no rows", data)
    return draw(whole_text(file))


@st.composite
def table(draw: Any, rows: list[Made], kind: str = "csv") -> DataFile:
    plain = [row for row in rows if row.fit and row.values]
    columns = list(plain[0].values or ()) if plain else ["prompt", "completion"]
    records = [[str(v).replace("\x00", "") for v in (row.values or {}).values()] for row in plain]
    delimiter = "\t" if kind == "tsv" else ","
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([columns, *records])
    lines = text.getvalue().encode().split(b"\n")[:-1]
    fit = [dict(zip(columns, record, strict=True)) for record in records]
    file = DataFile(kind, f"rows.{kind}", b"", len(records), fit)
    shape = draw(
        st.sampled_from(
            _mostly_whole("ragged", "quote", "last quote", "twice", "bytes", "CR", "CRLF", "blank")
        )
    )
    mark = delimiter.encode()
    if shape == "ragged":
        extra = draw(st.sampled_from([b"only", mark * 9, b"a" + mark * 5 + b"b", b'a"b']))
        lines.insert(draw(st.integers(1, len(lines))), extra)
        file = replace(file, rows=len(records) + 1)
    if shape == "quote" and len(lines) > 1:
        at = draw(st.integers(1, len(lines) - 1))
        refusal = None if any(b'"' in line for line in lines[at:]) else True
        lines.insert(at, b"a" + mark + b'"never closed')
        return file.broken("a quote not closed", b"\n".join(lines), refusal)
    if shape == "last quote":
        lines.append(b"a" + mark + b'"never closed')
        file = replace(file, rows=len(records) + 1)
    if shape == "bytes":
        lines.insert(
            draw(st.integers(1, len(lines))),
            draw(st.sampled_from([b"\xff", b"\xe9", b"a\x00b"])) + mark * (len(columns) - 1),
        )
        file = replace(file, rows=len(records) + 1)
    if shape == "twice":
        return file.broken(
            "a column twice", b"\n".join([mark.join([b"prompt", b"prompt"]), *lines[1:]])
        )
    if shape == "blank":
        lines = [b"", *(part for line in lines for part in (line, b""))]
    end = {"CR": b"\r", "CRLF": b"\r\n"}.get(shape, b"\n")
    return draw(whole_text(replace(file, data=end.join(lines))))


@st.composite
def text(draw: Any, rows: list[Made]) -> DataFile:
    unit = draw(st.sampled_from(["line", "paragraph", "file"]))
    texts = [row.values["text"] for row in rows if row.fit and row.values]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    gap = end if unit == "line" else 2 * end
    count = len(texts) if unit != "file" else min(1, len(texts))
    if unit == "file" and sum(map(len, texts)) > 30_000:
        texts = []  # a longer one is cut into several rows
        count = 0
    file = DataFile(
        "text", "rows.txt", gap.join(texts).encode(), count, [], settings={"text_unit": unit}
    )
    if unit != "file":
        file = replace(file, fit=[{"text": one.rstrip()} for one in texts])
    if texts and draw(st.booleans()):
        bytes_ = draw(st.sampled_from([b"\xff", b"\x00", b"caf\xe9", b"\xf0\x9f"]))
        added = 0 if unit == "file" else 1
        fit = [] if unit == "file" else file.fit
        file = replace(file, data=file.data + gap.encode() + bytes_, rows=count + added, fit=fit)
    return draw(whole_text(file))


@st.composite
def parquet(draw: Any, rows: list[Made]) -> DataFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row for row in rows if row.fit and row.values]
    arrays = pa.Table.from_pylist([row.values for row in rows] or [{"prompt": "a"}])
    arrays = arrays if rows else arrays.slice(0, 0)
    shape = draw(
        st.sampled_from(
            _mostly_whole("nulls", "twice", "not UTF-8", "date", "flipped", "cut", "other")
        )
    )
    fit = _fit(rows)
    if shape == "nulls":
        nothing = pa.nulls(1, pa.struct([("a", pa.list_(pa.null()))]))
        arrays = pa.concat_tables([arrays, pa.table({"none": nothing})], promote_options="default")
    if shape == "date":
        arrays = arrays.append_column("when", pa.array([2**62] * len(rows), pa.timestamp("us")))
        fit = []
    if shape == "not UTF-8" and rows:
        raw = pa.array([b"\xff\xfe"] * len(rows), pa.binary()).view(pa.string())
        arrays, fit = arrays.append_column("bytes", raw), []
    if shape == "twice" and rows:
        arrays = arrays.append_column(arrays.column_names[0], arrays.column(0))
    sink = io.BytesIO()
    pq.write_table(arrays, sink, write_page_checksum=True, row_group_size=3)
    data = sink.getvalue()
    file = DataFile("parquet", "rows.parquet", data, arrays.num_rows, fit)
    if shape == "twice" and rows:
        return file.broken("a column twice", data)
    if shape == "cut":
        return file.broken("cut off", data[: draw(st.integers(0, len(data) - 1))])
    if shape == "flipped":
        at = draw(st.integers(0, len(data) - 1))
        other = bytes([data[at] ^ draw(st.integers(1, 255))])
        return file.broken("a byte changed", data[:at] + other + data[at + 1 :], None)
    if shape == "other":
        return file.broken(
            "no parquet", draw(st.sampled_from([b"", b"PAR1", b"PAR1PAR1", b"x" * 99]))
        )
    return replace(file, refusal=None if shape in ("nulls", "date", "not UTF-8") else False)


@st.composite
def whole_text(draw: Any, file: DataFile) -> DataFile:
    """A file of text as it is, or hurt as a whole."""
    shape = draw(
        st.sampled_from(
            _mostly_whole("BOM", "UTF-16", "UTF-16 unmarked", "UTF-32", "blank", "empty", "packed")
        )
    )
    if shape == "BOM":
        return replace(file, data=BOM + file.data, defect="BOM")
    if shape in ("blank", "empty"):
        data = (
            b""
            if shape == "empty"
            else draw(st.sampled_from([b"\n", b"\r\n\r\n", b" \t\n" * 999, BOM]))
        )
        return file.broken(shape, data)
    if shape in ("UTF-16", "UTF-16 unmarked", "UTF-32"):
        codec = {"UTF-16": "utf-16", "UTF-32": "utf-32"}.get(shape) or draw(
            st.sampled_from(["utf-16-le", "utf-16-be"])
        )
        words = 'prompt,completion\n{"prompt": "ask", "completion": "say"}\n' * 3
        return file.broken(shape, words.encode(codec))
    if shape == "packed":
        magic = draw(
            st.sampled_from([b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"BZh91AY&SY"])
        )
        return file.broken("an archive", magic + file.data)
    return file


@st.composite
def packed(draw: Any, file: DataFile) -> DataFile:
    """With gzip, well or badly."""
    shape = draw(st.sampled_from(_mostly_whole("gz", "unnamed", "not packed", "cut")))
    data, name = gzip.compress(file.data, mtime=0), f"{file.name}.gz"
    if shape == "gz":
        return replace(file, name=name, data=data)
    if shape == "unnamed":
        return file.broken("packed, not named so", data)
    if shape == "not packed" and file.data:
        return replace(file.broken("named .gz, not packed", file.data), name=name)
    if shape == "cut":
        at = draw(st.integers(1, len(data) - 1))
        return replace(file.broken("packed and cut off", data[:at]), name=name)
    return file


MAKERS = {
    "jsonl": jsonl, "json": array, "csv": table, "parquet": parquet, "text": text,
    "tsv": lambda rows: table(rows, "tsv"),
}  # fmt: skip
