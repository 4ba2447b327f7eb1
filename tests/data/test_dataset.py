"""Data from end to end: splits, prompts, what is skipped, what is refused."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data

E2E = {"prompt": "mr", "completion": "ref", "references": "refs"}


@pytest.fixture
def e2e():
    return Data("asset:e2e", format="prompt", columns=E2E, validation=0.05, test="test")


def rows(count, prompts=None):
    return [
        {"prompt": f"ask {i % (prompts or count)}", "completion": f"say {i}"} for i in range(count)
    ]


def test_e2e_splits_are_whole_and_share_no_prompt(e2e, tokenizer):
    train = {e["prompt"] for e in e2e.examples("train")}
    validation = {e["prompt"] for e in e2e.examples("validation")}
    test = {e["prompt"] for e in e2e.examples("test")}
    assert not train & validation and not (train | validation) & test
    counts = [len(e2e.prepare(s, tokenizer)) for s in ("train", "validation", "test")]
    assert sum(counts[:2]) == 4672 and counts[2] == 630
    assert 0.02 < counts[1] / 4672 < 0.08


def test_e2e_prompts_have_all_references(e2e, tokenizer):
    test = e2e.prompts("test", tokenizer)
    assert len(test) == 630
    assert test[0].references == test[0].row["refs"]
    validation = e2e.prompts("validation", tokenizer)
    held_out = [e for e in e2e.examples("validation")]
    assert len(validation) == len({e["prompt"] for e in held_out})
    assert sum(len(p.references) for p in validation) > len(validation) * 3


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_generation_prompts_are_the_training_prefix(tokenizer, template):
    data = Data("asset:gsm8k", format="prompt", columns={"prompt": "question", "completion": "answer"},
                template=template)  # fmt: skip
    tokens = data.prepare("train", tokenizer)
    for index, prompt in enumerate(data.prompts("train", tokenizer)[:200]):
        row = tokens.row(index)
        count = len(prompt.input_ids)
        assert row["input_ids"][:count].tolist() == prompt.input_ids
        assert (row["labels"][:count] == -100).all()
        end = count + np.flatnonzero(row["labels"] != -100).size
        assert (row["labels"][count:end] == row["input_ids"][count:end]).all()


def test_plain_rows_begin_with_bos_and_end_with_a_learned_eos(tokenizer, write_rows):
    data = Data(
        str(write_rows([{"prompt": "a", "completion": "b"}])), prompt_template="Q {prompt} A "
    )
    row = data.prepare("train", tokenizer).row(0)
    assert tokenizer.decode(row["input_ids"]) == "<|bos|>Q a A b<|eos|>"
    assert tokenizer.decode(row["labels"][row["labels"] != -100]) == "b<|eos|>"


def test_prompts_of_a_row_with_braces_stay_as_they_are(tokenizer, write_rows):
    data = Data(str(write_rows([{"prompt": "{x} {prompt}", "completion": "{y}"}])))
    assert (
        tokenizer.decode(data.prompts("train", tokenizer)[0].input_ids) == "<|bos|>{x} {prompt}\n"
    )


def test_a_template_without_a_place_for_the_prompt_is_refused():
    with pytest.raises(UserError, match="does not contain {prompt}"):
        Data("x.jsonl", prompt_template="Question:")


def test_every_token_of_a_text_is_predicted_exactly_once(tokenizer, tmp_path):
    text = "one two three four five " * 60
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    tokens = Data(str(tmp_path), max_length=32).prepare("train", tokenizer)
    whole = [tokenizer.bos_token_id, *tokenizer(text.strip()).input_ids, tokenizer.eos_token_id]
    learned = [t for i in range(len(tokens)) for t in tokens.row(i)["labels"] if t != -100]
    assert learned == whole[1:]
    assert tokens.lengths.max() == 32


MALFORMED = 7_421


@pytest.fixture
def ten_thousand(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in rows(10_000)]
    lines[MALFORMED - 1] = '{"prompt": "cut off'
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_malformed_row_in_ten_thousand_is_named(ten_thousand, tokenizer):
    with pytest.raises(UserError, match="not valid JSON") as caught:
        Data(str(ten_thousand)).prepare("train", tokenizer)
    assert caught.value.where == f"{ten_thousand}:{MALFORMED}"
    assert "data.on_error=skip" in caught.value.fix


def test_every_row_is_accounted_for_by_its_fate(tokenizer, tmp_path, caplog):
    long, path = "word " * 40, tmp_path / "rows.jsonl"
    kept = [json.dumps(row) for row in rows(6)]
    lost = ["{", '{"prompt": "a"}', '{"prompt": "a", "completion": " "}', "[]",
            json.dumps({"prompt": "a", "completion": long})]  # fmt: skip
    path.write_text("\n".join([kept[0], *lost, *kept[1:]]), encoding="utf-8")
    data = Data(str(path), on_error="skip", overlong="drop", max_length=32)
    tokens = data.prepare("train", tokenizer)
    why = {"broken": 2, "unfit": 1, "empty": 1, "too long": 1}
    figures = data.describe(tokenizer)["splits"]["train"]
    assert figures["left_out"] == why and (figures["read"], figures["used"]) == (11, 6)
    assert figures["left_out_rows"]["too long"] == [f"{path}:6"]
    assert [row.partition("  ")[0] for row in figures["left_out_rows"]["broken"]] == [
        f"{path}:2", f"{path}:5",
    ]  # fmt: skip
    assert "11 rows read: 6 used, 5 left out (" in tokens.summary()
    assert "4 rows skipped" in caplog.text and f"{path}:6" in caplog.text


@pytest.mark.parametrize(
    "answer", ["word " * 200_000, "x" * 100_000, "🙂" * 20_000, "שלום " * 9_000]
)
def test_a_row_of_megabytes_is_cut_and_counted(tokenizer, write_rows, answer):
    path = write_rows([*rows(1), {"prompt": "a", "completion": answer}, *rows(1)])
    tokens = Data(str(path), max_length=64).prepare("train", tokenizer)
    assert (len(tokens), tokens.meta["overlong"], tokens.meta["longest_row"]) == (3, 1, f"{path}:2")
    left = Data(str(path), max_length=64, overlong="drop").prepare("train", tokenizer)
    assert len(left) == 2 and left.meta["left_out"] == {"too long": 1}


def test_rows_of_the_other_side_of_a_share_are_accounted_for(tokenizer, write_rows):
    data = Data(str(write_rows([*rows(40), {"prompt": "a"}])), on_error="skip", validation=0.2)
    train, held = (data.prepare(s, tokenizer).meta for s in ("train", "validation"))
    assert train["other_split"] == held["used"] > 0 and train["used"] + held["used"] == 40
    assert train["left_out"] == {"unfit": 1} and not held["left_out"]
    assert train["entries"] == held["entries"] == 41


def test_a_preview_tells_of_rows_that_it_passed_over(tokenizer, write_rows, caplog):
    path = write_rows([*rows(1), {"prompt": "a"}, *rows(2)])
    assert len(Data(str(path), on_error="skip").sample("train", tokenizer, 3)) == 3
    assert "4 rows read: 3 used, 1 left out (1 unfit)" in caplog.text
    with pytest.raises(UserError, match="has no column 'completion'"):
        Data(str(path)).sample("train", tokenizer, 3)
    none = write_rows([{**row, "completion": ""} for row in rows(2)], "none.jsonl")
    with pytest.raises(UserError, match=r"2 left out \(2 empty\)"):
        Data(str(none), on_error="skip").sample("train", tokenizer, 3)


def test_a_malformed_row_is_skipped_counted_and_shown(ten_thousand, tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        tokens = Data(str(ten_thousand), on_error="skip").prepare("train", tokenizer)
    assert (len(tokens), tokens.skipped) == (9_999, 1)
    assert "1 row skipped" in caplog.text and f"{ten_thousand}:{MALFORMED}" in caplog.text
    origins = [tokens.origin(i) for i in (0, MALFORMED - 2, MALFORMED - 1, 9_998)]
    assert origins == [f"{ten_thousand}:{n}" for n in (1, MALFORMED - 1, MALFORMED + 1, 10_000)]


def test_after_mending_the_row_nothing_stale_is_left(ten_thousand, tokenizer):
    with pytest.raises(UserError):
        Data(str(ten_thousand)).prepare("train", tokenizer)
    lines = ten_thousand.read_text().split("\n")
    lines[MALFORMED - 1] = json.dumps({"prompt": "fixed", "completion": "row"})
    ten_thousand.write_text("\n".join(lines))
    tokens = Data(str(ten_thousand)).prepare("train", tokenizer)
    assert len(tokens) == 10_000
    assert "fixed" in tokenizer.decode(tokens.row(MALFORMED - 1)["input_ids"])


@pytest.mark.parametrize("count", [2, 5, 40])
def test_a_share_of_a_small_file_holds_out_at_least_one_prompt(tokenizer, write_rows, count):
    data = Data(str(write_rows(rows(count))), validation=0.05)
    train, validation = (len(data.prepare(s, tokenizer)) for s in ("train", "validation"))
    assert validation >= 1 and train >= 1 and train + validation == count


def test_a_share_of_one_prompt_cannot_be_held_out(tokenizer, write_rows):
    data = Data(str(write_rows(rows(5, prompts=1))), validation=0.05)
    assert len(data.prepare("train", tokenizer)) == 5
    with pytest.raises(UserError, match="'validation' .* is empty"):
        data.prepare("validation", tokenizer)


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(UserError, match="cannot be held out"):
        Data("x.jsonl", validation=share)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"max_length": 1}, "data.max_length"), ({"limit": 0}, "data.limit"),
     ({"format": "prompt", "system": "Be brief."}, "data.system"),
     ({"template": "chat", "prompt_template": "{prompt}"}, "data.prompt_template")],
)  # fmt: skip
def test_settings_that_would_be_ignored_or_break_are_refused(settings, key):
    with pytest.raises(UserError) as caught:
        Data("x.jsonl", **settings)
    assert caught.value.where == key and caught.value.fix


def test_validation_and_test_by_path_and_by_split(tokenizer, write_rows, tmp_path):
    for name in ("train", "validation", "test"):
        write_rows([{"prompt": name, "completion": name}], f"{name}.jsonl")
    folder = Data(str(tmp_path), validation="validation", test=str(tmp_path / "test.jsonl"))
    for name in ("train", "validation", "test"):
        assert [e["prompt"] for e in folder.examples(name)] == [name]
    assert folder.splits == ["train", "validation", "test"]


def test_a_split_that_is_not_configured_is_refused(tokenizer, write_rows):
    with pytest.raises(UserError, match="no split 'test'") as caught:
        Data(str(write_rows(rows(2)))).prepare("test", tokenizer)
    assert caught.value.where == "data.test"


def test_limit_reads_only_the_first_rows(tokenizer, write_rows):
    data = Data(str(write_rows(rows(50))), limit=7)
    assert [e["completion"] for e in data.examples()] == [f"say {i}" for i in range(7)]


@pytest.mark.parametrize(
    ("overlong", "kept"), [("truncate", [12, 12]), ("drop", [12])], ids=["truncate", "drop"]
)
def test_overlong_rows_are_cut_or_dropped_and_counted(tokenizer, write_rows, overlong, kept):
    path = write_rows(
        [{"prompt": "a", "completion": "b " * 8}, {"prompt": "a", "completion": "b " * 80}]
    )
    full = len(Data(str(path)).prepare("train", tokenizer).row(0)["input_ids"])
    data = Data(str(path), max_length=full, overlong=overlong)
    tokens = data.prepare("train", tokenizer)
    assert tokens.lengths.tolist() == [full] * len(kept)
    assert tokens.meta["overlong"] == 1
    assert tokens.meta["longest_row"] == f"{path}:2"


def test_an_overlong_row_can_be_an_error(tokenizer, write_rows):
    path = write_rows(
        [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b " * 80}]
    )
    with pytest.raises(UserError, match=r"tokens, data.max_length is 16") as caught:
        Data(str(path), max_length=16, overlong="error").prepare("train", tokenizer)
    assert caught.value.where == f"{path}:2"


def test_nothing_to_learn_because_answers_begin_too_late(tokenizer, write_rows):
    data = Data(str(write_rows([{"prompt": "a " * 50, "completion": "b"}] * 3)), max_length=16)
    with pytest.raises(UserError, match="no token is learned in 3 of 3 rows") as caught:
        data.prepare("train", tokenizer)
    assert "data.max_length" in caught.value.fix


def test_nothing_to_learn_because_markers_enclose_nothing(tokenizer, write_rows):
    import copy

    chat_tokenizer = copy.deepcopy(tokenizer)
    chat_tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% generation %}{% endgeneration %}{% endfor %}"
    )
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    data = Data(str(write_rows([{"messages": talk}] * 3)))
    with pytest.raises(UserError, match="3 of 3 rows.*markers enclose no answer"):
        data.prepare("train", chat_tokenizer)


def test_a_template_that_begins_answers_differently_when_asked_is_refused(
    with_template, write_rows, caplog
):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = str(write_rows([{"messages": talk}] * 3))
    chat_tokenizer = with_template("deepseek_r1")
    with pytest.raises(UserError, match=r"Of 3 rows: unlike_prompt in 3 .*first: .*rows.jsonl:1"):
        Data(path).prepare("train", chat_tokenizer)
    with caplog.at_level(logging.WARNING):
        tokens = Data(path, on_dropped_content="warn").prepare("train", chat_tokenizer)
    assert tokens.meta["dropped_content"] == {"unlike_prompt": 3}
    assert "unlike_prompt in 3 of 3 documents" in caplog.text
    with pytest.raises(UserError, match="unlike_prompt in 3"):  # a cache that a warning let pass
        Data(path).prepare("train", chat_tokenizer)


def test_preferences_learn_the_chosen_answer(tokenizer, write_rows):
    path = write_rows([{"prompt": "a", "chosen": "good", "rejected": "bad"}])
    row = Data(str(path)).prepare("train", tokenizer).row(0)
    assert tokenizer.decode(row["input_ids"]) == "<|bos|>a\ngood<|eos|>"


def test_the_fingerprint_follows_content_not_place_or_time(tokenizer, write_rows):
    first = Data(str(write_rows(rows(5), "a.jsonl"))).prepare("train", tokenizer)
    same = Data(str(write_rows(rows(5), "b.jsonl"))).prepare("train", tokenizer)
    more = Data(str(write_rows(rows(6), "c.jsonl"))).prepare("train", tokenizer)
    assert first.fingerprint == same.fingerprint != more.fingerprint


def test_describe_tells_what_was_used(e2e, tokenizer):
    told = e2e.describe(tokenizer)
    assert told["path"] == "asset:e2e" and told["licence"].startswith("CC BY-SA 4.0")
    assert told["fingerprint"] == e2e.prepare("train", tokenizer).fingerprint
    train = told["splits"]["train"]
    assert train["rows"] == 4672 - told["splits"]["validation"]["rows"]
    assert 0 < train["supervised"] < train["tokens"]
    json.dumps(told)


def test_prompt_ids_of_a_conversation_leave_the_last_answer_out(tokenizer):
    data = Data("x.jsonl")
    asked = [{"role": "user", "content": "a"}]
    with_answer = [*asked, {"role": "assistant", "content": "x"}]
    ids = data.prompt_ids({"messages": with_answer}, tokenizer)
    assert ids == data.prompt_ids({"messages": asked}, tokenizer)
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n")


def test_labels_are_int64_and_first_tokens_never_learned(tokenizer, write_rows):
    tokens = Data(str(write_rows(rows(3))), train_on="all").prepare("train", tokenizer)
    for index in range(3):
        row = tokens.row(index)
        assert row["labels"].dtype == np.int64
        assert row["labels"][0] == -100 and (row["labels"][1:] != -100).all()
