"""Tool calls and tools of any layout get one form; invalid ones are refused."""

from __future__ import annotations

import json

import pytest

from ftcli.data.conversation.tools import is_calls, parse_tool_calls, parse_tools
from ftcli.data.rows import RowError

CALL = {"name": "add", "arguments": {"a": 1, "b": None}}
RIGHT = {"type": "function", "function": CALL}


@pytest.mark.parametrize(
    "value",
    [
        CALL, [CALL], json.dumps(CALL), json.dumps([CALL]), [json.dumps(CALL)],
        {"name": "add", "parameters": CALL["arguments"]},
        [{"type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}],
        {**CALL, "arguments": json.dumps(json.dumps(CALL["arguments"]))},
    ],
)  # fmt: skip
def test_a_call_is_the_same_in_every_shape_and_keeps_its_nulls(value):
    assert parse_tool_calls(value, "turn 1") == [RIGHT]


@pytest.mark.parametrize("nothing", ["", " ", None, "{}", {}])
def test_a_call_without_arguments_has_none(nothing):
    called = parse_tool_calls({"name": "now", "arguments": nothing, "id": "c"}, "turn 1")
    assert called == [{"type": "function", "id": "c", "function": {"name": "now", "arguments": {}}}]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (
            {"name": "add", "arguments": "{a: 1}"},
            "'arguments' of 'add' in turn 1 is text that is not",
        ),
        ({"name": "add", "arguments": '{"a": 1, "a": 2}'}, "names 'a' more than once"),
        ({"name": "add", "arguments": [1]}, r"expected an object"),
        ({"arguments": {}}, "names no function"),
        ("add(1, 2)", "the tool call of turn 1 is text that is not valid JSON"),
    ],
)
def test_a_call_that_is_none_is_refused(value, why):
    with pytest.raises(RowError, match=why):
        parse_tool_calls(value, "turn 1")


TOOL = {"name": "add", "description": "Sum", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "value",
    [
        [TOOL], TOOL, json.dumps([TOOL]), [json.dumps(TOOL)], [{"type": "function", **TOOL}],
        [{"type": "function", "function": TOOL}],
        [{**TOOL, "parameters": json.dumps(TOOL["parameters"])}],
    ],
)  # fmt: skip
def test_tools_are_the_same_in_every_shape(value):
    assert parse_tools(value) == [{"type": "function", "function": TOOL}]


@pytest.mark.parametrize("nothing", [None, "", "[]", []])
def test_no_tools_are_none(nothing):
    assert parse_tools(nothing) == []


def test_bare_properties_become_a_schema_and_a_tool_needs_a_name():
    bare = {"name": "add", "parameters": {"a": {"type": "int"}}}
    assert parse_tools([bare])[0]["function"]["parameters"] == {
        "type": "object", "properties": {"a": {"type": "int"}},
    }  # fmt: skip
    with pytest.raises(RowError, match="tool 0 has no name"):
        parse_tools([{"description": "x"}])


def test_calls_are_told_from_other_lists():
    assert is_calls(json.dumps([CALL])) and is_calls([CALL])
    for other in ("[1]", "[", "[]", "call", [CALL, {"name": "x"}]):
        assert not is_calls(other)
