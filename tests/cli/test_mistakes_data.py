"""Mistakes in data (5, 6, a malformed row, missing files) are one message each, through the command."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rows(work):
    """Write a JSONL file into the working folder; returns its name."""

    def write(values, name="my.jsonl"):
        lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
        (work / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return name

    return write


def test_5_columns_that_do_not_fit(ftcli, rows):
    path = rows([{"question": "1+1?", "answer": "2"}])
    ended = ftcli("preview", "qlora_mini", "data=instruction", f"data.path={path}")
    assert ended.status == 2
    assert ended.err == (
        "command line  data.path: columns are [question, answer]; format=instruction wants "
        "[instruction, output] (not found: instruction, output). "
        'First row (my.jsonl:1): {"question": "1+1?", "answer": "2"}\n'
        "→ try: data.columns.instruction=question data.columns.output=answer\n"
    )


def test_5_the_suggestion_works(ftcli, rows):
    path = rows([{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}])
    ended = ftcli("preview", "qlora_mini", "data=instruction", f"data.path={path}",
                  "data.columns.instruction=question", "data.columns.output=answer",
                  "data.validation=null")  # fmt: skip
    assert ended.status == 0, ended.err
    assert "1+1?\n⟦2<|eos|>⟧" in ended.out


def test_6_nothing_to_learn(ftcli, rows):
    path = rows([{"prompt": "long " * 100, "completion": "x"}] * 3)
    ended = ftcli("prepare", "qlora_mini", "data=prompt", f"data.path={path}", "data.max_length=16",
                  "data.validation=null")  # fmt: skip
    assert ended.status == 2
    assert "no token is learned in 3 of 3 rows" in ended.err
    assert "raise data.max_length" in ended.err and "ftcli preview" in ended.err


def test_a_malformed_row_names_file_and_line(ftcli, rows):
    lines = [{"prompt": f"ask {i}", "completion": f"say {i}"} for i in range(10_000)]
    lines[7_420] = '{"prompt": "cut'
    path = rows(lines)
    job = ("prepare", "qlora_mini", "data=prompt", f"data.path={path}", "data.validation=null")
    ended = ftcli(*job)
    assert ended.status == 2
    assert ended.err.startswith(f"{path}:7421  is not valid JSON")
    assert "data.on_error=skip" in ended.err
    skipped = json.loads(ftcli(*job, "data.on_error=skip", "--json").out)["train"]
    assert (skipped["rows"], skipped["skipped"]) == (9_999, 1)


def test_a_missing_file_names_who_asked_for_it(ftcli, rows):
    rows([{"prompt": "a", "completion": "b"}], "train.jsonl")
    ended = ftcli("preview", "qlora_mini", "data=prompt", "data.path=trian.jsonl")
    assert ended.status == 2
    assert ended.err.startswith("command line  data.path: trian.jsonl: no such file or folder.\n")
    assert "did you mean train.jsonl?" in ended.err


def test_a_hub_set_without_network_is_one_message(ftcli, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ended = ftcli("preview", "qlora_mini", "data=chat", "data.path=owner/no-such-set")
    assert ended.status == 2
    assert "nor in the local cache, and the hub cannot be reached" in ended.err
    assert "Traceback" not in ended.err


def test_a_share_that_cannot_be_held_out(ftcli):
    ended = ftcli("preview", "qlora_mini", "data.validation=1.5")
    assert ended.status == 2
    assert ended.err.startswith("command line  data.validation: a share of 1.5")
