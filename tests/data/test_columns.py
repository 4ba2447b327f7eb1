"""Columns become fields; where they do not fit, one error names a fix."""

from __future__ import annotations

import pytest

from ftcli.core.errors import UserError
from ftcli.data import formats
from ftcli.data.columns import Columns
from ftcli.data.rows import RowError

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHAREGPT = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


def columns(row, name="auto", **mapping):
    return Columns(name, mapping, row, "data.path")


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": CHAT}, "chat"),
        ({"conversations": SHAREGPT, "id": "1"}, "chat"),
        ({"instruction": "a", "input": "", "output": "b"}, "instruction"),
        ({"prompt": "a", "completion": "b"}, "prompt"),
        ({"text": "a"}, "text"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
    ],
)
def test_unambiguous_columns_are_recognised(row, name):
    assert columns(row).format_name == name


def test_mapped_columns_count_for_recognition():
    judged = columns({"question": "a", "answer": "b"}, prompt="question", completion="answer")
    assert judged.format_name == "prompt"


def test_several_formats_that_fit_are_not_guessed_between():
    with pytest.raises(UserError, match="several formats: chat, text") as caught:
        columns({"messages": CHAT, "text": "a"})
    assert caught.value.fix == "set data.format=chat or data.format=text"


def test_unknown_columns_suggest_what_would_fit():
    with pytest.raises(UserError, match=r"columns are \[question, answer\]") as caught:
        columns({"question": "1+1?", "answer": "2"})
    assert "1+1?" in caught.value.what
    assert "data.columns.instruction=question data.columns.output=answer" in caught.value.fix


def test_wrong_columns_name_what_the_format_wants():
    with pytest.raises(UserError, match=r"format=instruction wants \[instruction, output\]") as e:
        columns({"question": "1+1?", "answer": "2"}, "instruction")
    assert e.value.fix == "try: data.columns.instruction=question data.columns.output=answer"
    assert e.value.where == "data.path"


def test_a_field_that_no_format_has_is_refused():
    with pytest.raises(UserError, match="Did you mean completion"):
        columns({"prompt": "a", "completion": "b"}, "prompt", completoin="b")


def test_an_unknown_format_is_refused():
    with pytest.raises(UserError, match="Did you mean text"):
        columns({"text": "a"}, "txt")


def test_references_stand_in_for_the_answer_of_rows_that_are_only_judged():
    judged = columns({"mr": "m", "refs": ["x", "y"]}, "prompt", prompt="mr", completion="ref",
                    references="refs")  # fmt: skip
    example = judged.build_example({"mr": "m", "refs": ["x", "y"]})
    assert example == {"prompt": "m", "completion": "x", "references": ["x", "y"]}


def test_the_answer_is_its_own_reference():
    assert columns({"prompt": "a", "completion": "b"}).build_example(
        {"prompt": "a", "completion": "b"}
    ) == {"prompt": "a", "completion": "b", "references": ["b"]}
    assert columns({"messages": CHAT}).build_example({"messages": CHAT})["references"] == ["b"]


def test_sharegpt_gets_the_standard_roles():
    example = columns({"conversations": SHAREGPT}).build_example({"conversations": SHAREGPT})
    assert example["messages"] == CHAT


def test_an_instruction_with_an_input_has_it_after_a_blank_line():
    row = {"instruction": "Add.", "input": "1 1", "output": "2"}
    assert columns(row).build_example(row)["prompt"] == "Add.\n\n1 1"
    assert columns(row).build_example({**row, "input": None})["prompt"] == "Add."


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a"}, "no column 'completion'; its columns are prompt"),
        ({"prompt": "a", "completion": None}, "'completion' is null"),
        ({"prompt": "a", "completion": " "}, "'completion' is empty"),
        ({"prompt": {"x": 1}, "completion": "b"}, "'prompt' is a mapping"),
    ],
)
def test_a_row_that_does_not_fit_says_why(row, why):
    judged = columns({"prompt": "a", "completion": "b"})
    with pytest.raises(RowError, match=why):
        judged.build_example(row)


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "no turn"),
        ("{", "not valid JSON"),
        (["a"], "turn 0 is not a mapping"),
        ([{"role": "robot", "content": "a"}], "role 'robot'"),
        ([{"role": "user"}], "content of turn 0' is null"),
        ([{"role": "user", "content": [{"type": "image"}]}], "not text"),
    ],
)
def test_a_conversation_that_makes_no_sense_says_why(messages, why):
    with pytest.raises(RowError, match=why):
        columns({"messages": CHAT}).build_example({"messages": messages})


def test_conversations_as_json_text_and_as_parts():
    import json

    judged = columns({"messages": CHAT})
    assert judged.build_example({"messages": json.dumps(CHAT)})["messages"] == CHAT
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}]}, CHAT[1]]
    assert judged.build_example({"messages": parts})["messages"] == CHAT


def test_preferences_as_conversations_share_their_beginning():
    row = {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "c"}]}
    example = columns(row).build_example(row)
    assert example["prompt"] == CHAT[:1]
    assert (example["chosen"], example["references"]) == (CHAT[1:], ["b"])


@pytest.mark.parametrize("name", formats.list_formats())
def test_every_format_declares_what_the_others_rely_on(name):
    module = formats.load_format(name)
    assert module.__doc__ and formats.required_fields(module)
    assert set(module.SYNONYMS) <= set(module.FIELDS)
