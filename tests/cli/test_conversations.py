"""Conversations that a template cannot write, through the command: refused by name, with a way out."""

from __future__ import annotations

import json

import pytest

from tests.data.templates import CALLS_OF_OBJECTS, CALLS_OF_TEXT, QWEN3

OPENAI = {
    "messages": [
        {"role": "user", "content": "Weather in Graz?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"town": "Graz"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Weather of a town",
                "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
            },
        }
    ],
}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Weather in Graz?"},
        {
            "from": "function_call",
            "value": '{"name": "get_weather", "arguments": {"town": "Graz"}}',
        },
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "Sunny."},
    ],
    "tools": json.dumps([OPENAI["tools"][0]["function"]]),
}
REASON = {
    "messages": [
        {"role": "user", "content": "2+0?"},
        {"role": "assistant", "reasoning_content": "two plus 0", "content": "2"},
        {"role": "user", "content": "3+0?"},
        {"role": "assistant", "content": "<think>three plus 0</think>3"},
    ]
}
CALL = '<call>get_weather {"town": "Graz"}</call><|im_end|>'


@pytest.fixture
def job(work, monkeypatch, tmp_path):
    """(row, template) -> arguments of a verb for rows like it."""
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))

    def write(row, template=None):
        (work / "rows.jsonl").write_text("\n".join([json.dumps(row)] * 3), encoding="utf-8")
        set_template = []
        if template:
            (work / "own.jinja").write_text(template, encoding="utf-8")
            set_template = ["model.chat_template=own.jinja"]
        data = ["data=chat", "data.path=rows.jsonl", "data.validation=null"]
        return ["qlora_mini", *data, *set_template]

    return write


@pytest.mark.parametrize("row", [OPENAI, SHAREGPT], ids=["openai", "sharegpt"])
def test_calls_that_the_shipped_template_cannot_write_are_refused(ftcli, job, row):
    ended = ftcli("check", *job(row))
    assert ended.status != 0
    shown = " ".join(ended.out.split())
    assert "lost_tool_call in 3" in shown and "lost_tools in 3" in shown
    assert "rows.jsonl:1" in shown and "data.on_dropped_content=warn" in shown


@pytest.mark.parametrize("template", [CALLS_OF_OBJECTS, CALLS_OF_TEXT], ids=["object", "text"])
@pytest.mark.parametrize("row", [OPENAI, SHAREGPT], ids=["openai", "sharegpt"])
def test_calls_are_learned_once_where_a_template_writes_them(ftcli, job, row, template):
    ended = ftcli("preview", *job(row, template), "-n", "1", "--json")
    (sample,) = json.loads(ended.out)
    learned = "".join(s["text"] for s in sample["stretches"] if s["learned"])
    assert learned == CALL + "Sunny.<|im_end|>" and sample["dropped_content"] == []
    whole = "".join(s["text"] for s in sample["stretches"])
    assert "Weather of a town" in whole and "sunny" in whole


def test_thinking_that_is_lost_is_said(ftcli, job):
    refused = " ".join(ftcli("check", *job(REASON)).out.split())
    assert "lost_reasoning in 3" in refused
    shown = ftcli("preview", *job(REASON), "-n", "1").out
    assert "lost_reasoning: the template drops the thinking" in " ".join(shown.split())
    warned = " ".join(
        ftcli("check", *job(REASON, QWEN3), "data.on_dropped_content=warn").out.split()
    )
    assert "lost_reasoning in 3" in warned or "earlier_reasoning in 3" in warned
