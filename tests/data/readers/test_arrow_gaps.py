"""Nulls that Arrow puts into structs are removed; those of JSON, lists, columns and maps stay."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftcli.data.dataset import Data
from ftcli.data.readers import read


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def row(name, arguments):
    tool = {"name": name, "parameters": {"type": "object", "properties": {
        key: {"type": "string"} for key in arguments}}}  # fmt: skip
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call(name, arguments)]},
    ]
    return {"messages": messages, "tools": [{"type": "function", "function": tool}]}


ROWS = [row("weather", {"town": "Graz"}), row("add", {"a": "1", "b": "2"})]


def calls_and_tools(rows):
    return [(row["messages"][1]["tool_calls"], row["tools"]) for row in rows]


def test_parquet_gives_the_keys_that_each_row_had(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    examples = Data(str(tmp_path / "rows.parquet")).examples()
    assert calls_and_tools(examples) == calls_and_tools(ROWS)


def test_jsonl_keeps_a_null_that_the_data_say(write_rows):
    example = next(
        Data(str(write_rows([row("weather", {"town": "Graz", "day": None})]))).examples()
    )
    arguments = example["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == {"town": "Graz", "day": None}


def test_hub_rows_are_treated_alike(monkeypatch):
    datasets = pytest.importorskip("datasets")
    from ftcli.data.sources.hub import Hub

    monkeypatch.setattr(Hub, "dataset", datasets.Dataset.from_list(ROWS))
    data = Data("someone/tools")
    monkeypatch.setattr("ftcli.data.split.find_source", lambda path, split, *rest: Hub(path, split))
    assert calls_and_tools(data.examples()) == calls_and_tools(ROWS)


def test_columns_lists_and_maps_keep_their_nulls(tmp_path):
    table = pa.table({
        "column": pa.array([None, "x"]),
        "list": pa.array([[1, None], []]),
        "map": pa.array([[("k", None)], []], type=pa.map_(pa.string(), pa.int64())),
        "struct": pa.array([{"a": None, "b": [{"c": None, "d": 1}]}, {"a": 2, "b": None}]),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    first, second = (item.values for item in read(tmp_path / "rows.parquet"))
    assert first == {
        "column": None,
        "list": [1, None],
        "map": {"k": None},
        "struct": {"b": [{"d": 1}]},
    }
    assert second == {"column": "x", "list": [], "map": {}, "struct": {"a": 2}}
