"""System message, history and tools stay with the prompt, and nothing is written twice."""

from __future__ import annotations

import pytest

from ftcli.core.errors import UserError
from ftcli.data.conversation.exchange import extract_prompt
from ftcli.data.dataset import Data
from ftcli.data.rows import RowError

ROW = {"instruction": "And its capital?", "input": "", "output": "Vienna."}
AROUND = {"system": "Be terse.", "history": [["Name a country.", "Austria."]]}


def first(write_rows, *rows, **options):
    return next(Data(str(write_rows(rows)), **options).examples())


def test_system_and_history_are_context_and_only_the_answer_is_learned(write_rows, tokenizer):
    data = Data(str(write_rows([{**ROW, **AROUND}])))
    row = data.prepare("train", tokenizer).row(0)
    whole = tokenizer.decode(row["input_ids"])
    assert (
        whole.count("Be terse.") == whole.count("Austria.") == whole.count("And its capital?") == 1
    )
    prompt = tokenizer.decode(data.prompts("train", tokenizer)[0].input_ids)
    assert "Be terse." in prompt and "Austria." in prompt and "Vienna" not in prompt


def test_one_row_with_a_system_message_makes_conversations_of_all(write_rows):
    rows = [{**ROW, "system": ""}, {**ROW, "system": "Be terse."}]
    examples = list(Data(str(write_rows(rows))).examples())
    assert [len(e["messages"]) for e in examples] == [2, 3]
    empty = list(Data(str(write_rows([rows[0]] * 2, "empty.jsonl"))).examples())
    assert [set(e) & {"prompt", "messages"} for e in empty] == [{"prompt"}] * 2


def test_a_column_can_be_left_out(write_rows):
    example = first(write_rows, {**ROW, **AROUND}, columns={"system": None, "history": None})
    assert example["prompt"] == "And its capital?"


def test_a_history_of_turns_and_of_json_text(write_rows):
    turns = [
        {"role": "user", "content": "Name a country."},
        {"role": "assistant", "content": "Austria."},
    ]
    for history in (turns, '[["Name a country.", "Austria."]]'):
        messages = first(write_rows, {**ROW, "history": history})["messages"]
        assert [m["content"] for m in messages[:2]] == ["Name a country.", "Austria."]
        assert messages[1]["learn"] is False
    with pytest.raises(UserError, match="'history' is text that is not valid JSON"):
        first(write_rows, {**ROW, "history": "hello"})


def test_two_system_messages_that_differ_are_refused(write_rows):
    turns = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "a"},
             {"role": "assistant", "content": "b"}]  # fmt: skip
    with pytest.raises(UserError, match="data.columns.system=null"):
        first(write_rows, {"messages": turns, "system": "Be terse."})
    same = first(write_rows, {"messages": turns, "system": "Be long. "})
    assert len(same["messages"]) == 3


def test_rows_that_ask_the_same_after_one_history_stay_together():
    asked = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "learn": False},
    ]
    first = {
        "messages": [
            *asked,
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d"},
        ]
    }
    other = {
        "messages": [
            *asked,
            {"role": "user", "content": "e"},
            {"role": "assistant", "content": "d"},
        ]
    }
    assert extract_prompt(first) != extract_prompt(other)


USER, GOOD, BAD = ({"role": r, "content": c} for r, c in
                   (("user", "Name a river."), ("assistant", "Danube."), ("assistant", "Sahara.")))  # fmt: skip


def test_a_prompt_that_stands_in_the_answers_too_stands_once(write_rows, tokenizer):
    system = {"role": "system", "content": "Be terse."}
    rows = [
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "Name a river.", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {
            "prompt": "Name a river.",
            "chosen": [system, USER, GOOD],
            "rejected": [system, USER, BAD],
        },
        {"prompt": [system, USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"system": "Be terse.", "prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ]
    data = Data(str(write_rows(rows)), format="preference", pairs=True)
    tokens = data.prepare("train", tokenizer)
    for i in range(2 * len(rows)):
        assert tokenizer.decode(tokens.row(i)["input_ids"]).count("Name a river.") == 1
    assert [len(e["prompt"]) for e in data.examples()] == [1, 1, 2, 2, 1, 2]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "Name a lake.", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
         "is not how 'chosen' and 'rejected' begin"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "do not differ"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "has no prompt"),
        ({"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, GOOD, {**USER, "content": "x"}, BAD]},
         "'chosen' goes on with the user"),
        ({"chosen": "Danube.", "rejected": "Sahara."}, "'prompt' is null"),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant:", "rejected": "\n\nHuman: Hi\n\nAssistant: x"},
         "ends before the answer"),
    ],
)  # fmt: skip
def test_preferences_that_answer_no_common_prompt_are_refused(write_rows, row, why):
    with pytest.raises(UserError, match=why):
        first(write_rows, row)


def test_an_answer_that_only_one_side_begins_like_the_prompt_is_kept(write_rows):
    row = {"prompt": "Paris", "chosen": "Paris is in France.", "rejected": "No."}
    assert first(write_rows, row)["chosen"] == "Paris is in France."


def test_unusable_says_where(write_rows):
    with pytest.raises(UserError, match="names no function") as caught:
        first(write_rows, {"messages": [USER, {"role": "assistant", "tool_calls": [{"x": 1}]}]})
    assert caught.value.where.endswith("rows.jsonl:1") and not isinstance(caught.value, RowError)
