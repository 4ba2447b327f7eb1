"""Rows as people's files have them, and rows bent in every way that has been seen in one."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from hypothesis import strategies as st

STRANGE = (
    "🙂👩‍👩‍👧‍👦🏳️‍🌈", "שלום \u202eעולם\u202c", "مرحبا", "z͑ͫ̓ͪ̂ͫ̽a̴̵̞̬lgo", "日本語。", "\ufeffmark", "a\u2028b\u2029c\x85d", "\x1b[31mred",
    "<|eos|><|im_end|>", "{prompt} {x} {{y}}", "{% raise %}", "null", "NaN", "-0", "'\"`,;\t|", "\\n\\u00e9",
    "x" * 20_000, "word " * 3_000, "\U0010ffff", "é", "e\u0301" * 50, "# no comment", "=1+1",
)  # fmt: skip
#: Never blank, and without what would end a line.
PHRASES = st.one_of(
    st.sampled_from(STRANGE),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=20),
).map(lambda text: f"q{text}q")
NO_TEXT = st.sampled_from(
    [
        None,
        "",
        "  \t",
        [],
        {},
        [None, [None, {"a": None}]],
        ["a"],
        {"text": "a"},
        math.nan,
        math.inf,
    ]
)
BIG = "9" * 6_000
#: Lines that are one row each to whoever counts, and no object that could be used.
BROKEN_JSON = (
    b'{"prompt": "cut', b"{'prompt': 'a'}", b'{"prompt": "a",}', b"not json", b'{"prompt" "a"}', b"{", b"}",
    b'{"prompt": "a"}{"prompt": "b"}', b'{"prompt": "\xff\xfe"}', b'{"prompt": "\xe9t\xe9"}', b"\xc3(",
    b'{"prompt": "a\x00b", "completion": "c"}', b"\x00" * 40, b'{"prompt": "\xed\xa0\x80"}', b"\\", b'"',
    b'{"prompt": tru', b'{"prompt": "\\x"}', b'{"prompt": "a\tb"}', b"<html>", b"// comment",
)  # fmt: skip
#: The same for lines that are JSON by the grammar.
USELESS_JSON = (
    "[1, 2]", "5", "null", '"text"', "true", "[]", "NaN", "-Infinity",
    '{"prompt": "a", "prompt": "b", "completion": "c"}', '{"prompt": "a", "completion": {"b": 1, "b": 2}}',
    '{"prompt": "\\ud83d", "completion": "c"}', '{"prompt": "a", "completion": "b", "\\udfff": 1}',
    f'{{"prompt": "a", "completion": {"[" * 150}{"]" * 150}}}',
    f'{{"prompt": "a", "completion": "b", "more": {"[" * 150}{"]" * 150}}}',
)  # fmt: skip
#: Those that a parser gives up on: in an array no later row can be trusted.
TOO_MUCH = (
    f'{{"prompt": {BIG}, "completion": "c"}}', f'{{"a": {"[" * 100_000}{"]" * 100_000}}}',
    f'{{"a": {"[" * 100_000}', '{"a":' * 50_000,
)  # fmt: skip


class Made(NamedTuple):
    """One row: its values, or its bytes where no values have this form; whether it must be trained on."""

    values: dict[str, Any] | None
    raw: bytes
    fit: bool


def of(values: dict[str, Any], fit: bool) -> Made:
    """A row that can be written as JSON."""
    return Made(values, json.dumps(values, ensure_ascii=False).encode(), fit)


@st.composite
def good(draw: Any, format: str) -> Made:
    """A row that has to be trained on."""
    a, b, c = (draw(PHRASES) for _ in range(3))
    if format == "chat":
        talk = [{"role": "user", "content": a}, {"role": "assistant", "content": b}]
        return of({"messages": talk * draw(st.integers(1, 2))}, True)
    if format == "preference":
        return of({"prompt": a, "chosen": f"{b}y", "rejected": f"{c}n"}, True)
    if format == "instruction":
        return of({"instruction": a, "input": draw(st.sampled_from(["", b])), "output": c}, True)
    if format == "text":
        return of({"text": a}, True)
    return of({"prompt": a, "completion": b, "id": draw(st.integers(-(2**63), 2**63 - 1))}, True)


@st.composite
def bent(draw: Any, format: str) -> Made:
    """A row that can be read, and nobody could train on."""
    row = dict(draw(good(format)).values)
    if format == "chat" and draw(st.booleans()):
        row["messages"] = draw(st.sampled_from(TALKS))
        return of(row, False)
    if format == "preference" and draw(st.booleans()):
        row["rejected"] = row["chosen"]
        return of(row, False)
    required = [key for key in row if key not in ("input", "id")]
    key = draw(st.sampled_from(required))
    if draw(st.booleans()):
        row[key] = draw(NO_TEXT)
    else:
        del row[key]
    return of(row, False)


USER, SAID = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
TALKS = (
    [], [USER], ["a", "b"], [None], {}, "no json", "[", 7,
    [USER, {"role": "robot", "content": "b"}], [USER, {"role": "x" * 9_000, "content": "b"}],
    [USER, {"role": None, "content": "b"}], [USER, {"role": ["assistant"], "content": "b"}],
    [USER, {"role": "assistant", "content": None}], [USER, {"role": "assistant"}], [USER, [SAID]],
    [USER, {"role": "assistant", "content": [{"type": "image", "text": None}]}],
    [USER, {"role": "assistant", "content": [{"type": "image_url"}]}],
    [USER, {"role": "assistant", "content": [[]]}], [USER, {"role": "assistant", "content": " "}],
    [{"from": "human", "value": 5}, {"from": "gpt", "value": {}}],
    "[" * 200 + "]" * 200, '[{"role": "user", "role": "assistant", "content": "a"}]',
)  # fmt: skip
