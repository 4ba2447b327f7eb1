"""A chat renders prompts as training did, remembers conversations, and keeps within the context."""

from __future__ import annotations

import json

import pytest

from ftcli.core.errors import UserError
from ftcli.run.build import open_run
from ftcli.serving.chat import Chat

TALK = [
    {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": "yes"}]}
    for i in range(8)
]


@pytest.fixture(scope="module")
def bot(trained_run):
    return Chat(open_run(trained_run), max_new_tokens=8)


@pytest.fixture(scope="module")
def talker(train_tiny, tmp_path_factory):
    """A model trained on conversations."""
    file = tmp_path_factory.mktemp("talk") / "talk.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in TALK))
    path = train_tiny(
        "run.name=talk", "eval=none", f"data.path={file}", "data.format=chat", "~data.columns",
        "data.validation=null", "data.test=null", "trainer.max_steps=1",
    )  # fmt: skip
    file.unlink()  # a chat needs the model and the record, not the data
    return Chat.open(path, max_new_tokens=8)


def test_the_prompt_is_the_one_of_training(bot):
    row = next(bot.run.data.examples("train"))
    assert bot.prompt(row["prompt"]) == bot.run.data.prompt_ids(row, bot.run.tokenizer)


def test_pieces_add_up_to_the_answer_and_lines_stand_alone(bot):
    pieces: list[str] = []
    answer = bot.say("name[The Mill]", pieces.append)
    assert "".join(pieces).strip() == answer != ""
    assert bot.history == [] and bot.say("name[The Mill]") == answer


def test_a_prompt_as_long_as_the_context_is_refused(bot):
    with pytest.raises(UserError, match="fill the model's context"):
        bot.say("name[The Mill] " * 400)


def test_a_conversation_is_part_of_the_next_prompt_until_it_is_reset(talker):
    alone = talker.prompt("say 2")
    answer = talker.say("say 1")
    text = talker.run.tokenizer.decode(talker.prompt("say 2"))
    assert "say 1" in text and answer in text and text.endswith("<|im_start|>assistant\n")
    talker.reset()
    assert talker.prompt("say 2") == alone


def test_the_oldest_turns_go_when_the_context_is_full(talker):
    for turn in range(30):
        talker.history += [
            {"role": "user", "content": f"number {turn} " + "word " * 60},
            {"role": "assistant", "content": "yes"},
        ]
    text = talker.run.tokenizer.decode(talker.prompt("the last"))
    assert "number 0 " not in text and "number 29 " in text and "the last" in text
    talker.reset()


def test_sampling_is_seeded_by_torch_and_differs_from_greedy(trained_run):
    import torch

    free = Chat.open(trained_run, max_new_tokens=8, temperature=5.0)
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(free.say("name[The Mill]"))
    assert answers[0] == answers[1] != answers[2]
