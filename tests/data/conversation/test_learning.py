"""Keys that say whether a turn is learned are followed, or refused by name."""

from __future__ import annotations

import pytest

from ftcli.core.errors import UserError
from ftcli.data.conversation.learning import take_learn_flag
from ftcli.data.conversation.turns import parse_conversation
from ftcli.data.dataset import Data
from ftcli.data.rows import RowError


@pytest.mark.parametrize(
    ("key", "value", "learned"),
    [
        ("weight", 0, False), ("weight", 1, True), ("weight", 0.0, False), ("weight", 1.0, True),
        ("train", False, False), ("train", True, True), ("training", "false", False),
        ("loss", False, False), ("loss_scale", 0.0, False), ("loss_mask", 1, True),
        ("train_on_turn", False, False), ("masked", True, False), ("masked", False, True),
    ],
)  # fmt: skip
def test_each_key_means_what_its_program_says(key, value, learned):
    turn = {key: value, "name": "x"}
    assert take_learn_flag(turn, "assistant", 1) is learned
    assert turn == {"name": "x"}


@pytest.mark.parametrize(
    ("turn", "role", "why"),
    [
        ({"weight": 0.5}, "assistant", "'weight': 0.5"),
        ({"train": "perhaps"}, "assistant", "'train': 'perhaps'"),
        ({"train": True, "weight": 0}, "assistant", "contradicts itself: 'train', 'weight'"),
        ({"mask": 1}, "assistant", "'mask', which some programs read as"),
        ({"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}, "assistant",
         "'train_detail': parts of a turn"),
        ({"train": True}, "user", "only answers of the assistant are learned"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_name(turn, role, why):
    with pytest.raises(RowError, match=why):
        take_learn_flag(dict(turn), role, 1)


def test_neutral_words_on_other_turns_say_nothing():
    turns = [
        {"role": "user", "content": "a", "masked": True},
        {"role": "assistant", "content": "b", "loss": None},
    ]
    assert parse_conversation(turns, "messages") == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]


GOOD = {"prompt": "Name a river.", "completion": "The Danube.", "label": True}
BAD = {"prompt": "Name a river.", "completion": "Sahara.", "label": False}


@pytest.mark.parametrize("good", [True, 1, "True", "true"])
@pytest.mark.parametrize("bad", [False, 0, "False", "false"])
def test_bad_answers_are_left_out_and_counted(write_rows, tokenizer, caplog, good, bad):
    path = write_rows([{**GOOD, "label": good}, {**BAD, "label": bad}, GOOD])
    data = Data(str(path))
    tokens = data.prepare("train", tokenizer)
    assert (tokens.meta["entries"], tokens.meta["used"], tokens.meta["skipped"]) == (3, 2, 0)
    assert tokens.meta["left_out"] == {"not to learn": 1}
    assert "mark them as not to be learned" in caplog.text and f"{path}:2" in caplog.text
    assert all("Sahara" not in tokenizer.decode(tokens.row(i)["input_ids"]) for i in range(2))
    assert [p.references for p in data.prompts("train", tokenizer)] == [["The Danube."]]


def test_only_bad_answers_are_refused(write_rows, tokenizer):
    data = Data(str(write_rows([BAD, BAD])))
    for call in (lambda: data.prepare("train", tokenizer), lambda: data.sample("train", tokenizer, 1),
                 lambda: data.refuse_empty("train")):  # fmt: skip
        with pytest.raises(UserError, match=r"2 left out \(2 not to learn\)") as caught:
            call()
        assert "data.columns.label=null" in caught.value.fix


def test_a_label_that_names_a_class_says_nothing_of_the_answer(write_rows):
    path = str(write_rows([{**BAD, "label": "geography"}], "rated.jsonl"))
    assert next(Data(path).examples())["completion"] == "Sahara."


def test_a_label_can_be_left_out_and_must_be_a_verdict_where_it_is_mapped(write_rows):
    plain = Data(str(write_rows([BAD])), columns={"label": None})
    assert next(plain.examples())["completion"] == "Sahara."
    path = str(write_rows([{**BAD, "label": "geography"}], "rated.jsonl"))
    rated = Data(path, columns={"prompt": "prompt", "completion": "completion", "label": "label"})
    with pytest.raises(UserError, match="'label' is 'geography'.*data.columns.label=null"):
        next(rated.examples())
    asked = {"prompt": "1+1?", "label": "2"}
    mapped = Data(str(write_rows([asked], "asked.jsonl")), columns={"completion": "label"})
    assert next(mapped.examples())["completion"] == "2"


def test_a_conversation_without_an_answer_to_learn_is_left_out(write_rows, tokenizer):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    kept = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    tokens = Data(str(write_rows([{"messages": turns}, {"messages": kept}]))).prepare(
        "train", tokenizer
    )
    assert tokens.meta["left_out"] == {"not to learn": 1} and len(tokens) == 1


@pytest.mark.parametrize(
    ("column", "bad"),
    [
        ("messages", {"role": "assistant", "content": "BADANSWER", "weight": 0}),
        ("messages", {"role": "assistant", "content": "BADANSWER", "loss": False}),
        ("conversations", {"from": "gpt", "value": "BADANSWER", "train": False}),
    ],
)
@pytest.mark.parametrize("train_on", ["assistant", "all"])
def test_a_marked_answer_stands_in_the_text_and_is_never_learned(
    write_rows, tokenizer, column, bad, train_on
):
    ask = {"role": "user", "content": "Name a river."}
    turns = [
        ask,
        bad,
        {"role": "user", "content": "No."},
        {"role": "assistant", "content": "The Danube."},
    ]
    tokens = Data(str(write_rows([{column: turns}])), train_on=train_on).prepare("train", tokenizer)
    row = tokens.row(0)
    learned = tokenizer.decode(row["input_ids"][row["labels"] >= 0])
    assert "BADANSWER" in tokenizer.decode(row["input_ids"])
    assert "BADANSWER" not in learned and "The Danube." in learned
