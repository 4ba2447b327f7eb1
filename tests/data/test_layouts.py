"""Layouts of public data sets: each gives the right roles and learned answers, or one message that helps."""

from __future__ import annotations

import json
import re

import pytest

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data

from .layouts import LAYOUTS


def spoken(message, mark="+"):
    """Format a message as the table of layouts does."""
    calls = [
        f"{c['function']['name']}({json.dumps(c['function']['arguments'])})"
        for c in message.get("tool_calls", ())
    ]
    thought = f"<{message['reasoning_content']}> " if "reasoning_content" in message else ""
    learned = message["role"] == "assistant" and message.get("learn", True)
    text = thought + message["content"] + "".join(calls)
    return f"{mark if learned else ''}{message['role']}: {text}"


def as_turns(value, role):
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def lines(example):
    """Format an example, learned answers marked with + and rejected ones with -."""
    if "text" in example:
        return (f"+text: {example['text']}",)
    if "messages" in example:
        return tuple(map(spoken, example["messages"]))
    prompt = [spoken(m, "") for m in as_turns(example["prompt"], "user")]
    if "completion" in example:
        return (*prompt, f"+assistant: {example['completion']}")
    sides = (("+", example["chosen"]), ("-", example["rejected"]))
    return (*prompt, *(spoken(m, mark) for mark, v in sides for m in as_turns(v, "assistant")))


def data_of(write_rows, layout, **options):
    return Data(str(write_rows([layout.row, layout.row])), **options)


@pytest.mark.parametrize("name", [n for n, layout in LAYOUTS.items() if layout.right])
def test_a_layout_means_what_it_says(write_rows, name):
    layout = LAYOUTS[name]
    example = next(data_of(write_rows, layout, **layout.options).examples())
    assert lines(example) == layout.right
    names = tuple(tool["function"]["name"] for tool in example.get("tools", ()))
    assert names == layout.tools
    for tool in example.get("tools", ()):
        assert tool["type"] == "function"
        assert tool["function"]["parameters"]["properties"].keys() == {"city"}


@pytest.mark.parametrize("name", [n for n, layout in LAYOUTS.items() if layout.advice])
def test_a_layout_that_is_not_recognised_gets_advice_that_works(write_rows, name):
    layout = LAYOUTS[name]
    with pytest.raises(UserError) as caught:
        next(data_of(write_rows, layout).examples())
    assert layout.advice in caught.value.fix
    proposed = caught.value.fix if caught.value.fix.startswith("try: ") else layout.advice
    options = dict(re.findall(r"data\.(format)=(\S+)", proposed))
    options["columns"] = dict(re.findall(r"data\.columns\.(\w+)=(\S+)", proposed))
    assert lines(next(data_of(write_rows, layout, **options).examples()))


@pytest.mark.parametrize("name", [n for n, layout in LAYOUTS.items() if layout.refused])
def test_a_layout_that_cannot_be_learned_is_refused_or_left_out(write_rows, tokenizer, name):
    layout = LAYOUTS[name]
    with pytest.raises(UserError) as caught:
        data_of(write_rows, layout).prepare("train", tokenizer)
    assert layout.refused in caught.value.what and caught.value.fix
    assert "Traceback" not in str(caught.value) and "\n" not in caught.value.what
