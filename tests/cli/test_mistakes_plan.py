"""Mistake 7 of a job that is too big, and the mistakes that `check` sees before training does."""

import json
import re

import pytest

TOO_BIG = ("qlora_mini", "model=llama3_8b", "method.r=64", "--gpu", "24")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def rows(tmp_path):
    """Write rows to a file and give the overrides that read it."""

    def write(form, *values, **settings):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(f"{json.dumps(value)}\n" for value in values))
        settings_of_data = {"path": file, "validation": "null"} | settings
        return [f"data={form}", *(f"data.{key}={value}" for key, value in settings_of_data.items())]

    return write


def failure(ended, name):
    assert ended.status == 2 and "Traceback" not in ended.err
    failures = [c for c in json.loads(ended.out)["checks"] if c["status"] == "fail"]
    assert [c["name"] for c in failures] == [name]
    return failures[0]


def test_7_too_big_is_a_failed_check_with_alternatives(ftcli):
    check = failure(ftcli("check", *TOO_BIG, "--json"), "memory")
    shape = r"needs about [\d.]+ GB, a GPU of 24 GB has 24\.0 \(activations [\d.]+, weights 5\.7, "
    assert re.search(shape, check["text"])
    fits = (
        r"fits with trainer\.batch_size=\d+ trainer\.gradient_accumulation_steps=\d+ \([\d.]+ GB\)"
    )
    assert re.search(fits + r" or trainer\.gradient_checkpointing=true \([\d.]+ GB\)", check["fix"])
    assert "ftcli train configs/qlora_mini.yaml model=llama3_8b" in check["fix"]


def test_7_the_first_alternative_passes_the_check(ftcli):
    fix = failure(ftcli("check", *TOO_BIG, "--json"), "memory")["fix"]
    command = fix.splitlines()[-1].split()
    assert ftcli("check", *command[2:], "--gpu", "24", "--json").status == 0


def test_7_a_plan_says_it_and_succeeds(ftcli):
    ended = ftcli("plan", *TOO_BIG)
    assert ended.status == 0
    assert "needs about" in ended.out and "fits with" in ended.out


def test_4_targets_that_match_nothing(ftcli):
    ended = ftcli("check", "qlora_mini", "model=llama3_2_1b", "method.target_modules=[q_porj]",
                  "trainer.batch_size=1", "--json")  # fmt: skip
    checks = json.loads(ended.out)["checks"]
    check = next(c for c in checks if c["name"] == "targets")
    assert ended.status == 2 and check["status"] == "fail"
    assert "'q_porj' matches 0 of 112 linear layers of Llama-3.2-1B" in check["text"]
    assert "'q_proj' would match 16" in check["text"]


def test_5_columns_that_do_not_fit(ftcli, rows):
    words = rows("instruction", {"question": "a", "answer": "b"})
    check = failure(ftcli("check", "qlora_mini", *words, "--json"), "data")
    assert "question" in check["text"] and "data.columns" in check["fix"]


def test_6_nothing_to_learn(ftcli, rows):
    long = {"prompt": "word " * 200, "completion": "end"}
    words = rows("prompt", long, long, max_length=32)
    check = failure(ftcli("check", "qlora_mini", *words, "--json"), "data")
    assert "no token is learned" in check["text"] and "data.max_length" in check["fix"]


def test_a_malformed_row_names_its_line(ftcli, rows, tmp_path):
    words = rows("prompt", {"prompt": "a", "completion": "b"})
    with open(tmp_path / "rows.jsonl", "a") as file:
        file.write("{broken\n")
    check = failure(ftcli("check", "qlora_mini", *words, "--json"), "data")
    assert "rows.jsonl:2" in check["text"]
    skipped = ftcli("check", "qlora_mini", *words, "data.on_error=skip", "--json")
    warned = [c["text"] for c in json.loads(skipped.out)["checks"] if c["status"] == "warn"]
    assert skipped.status == 0 and "1 row skipped" in warned[0]


def test_8_a_model_without_its_config_is_one_message(ftcli):
    ended = ftcli("check", "qlora_mini", "model=causal_lm", "model.path=nobody/nothing", "--json")
    checks = json.loads(ended.out)["checks"]
    failed = [c for c in checks if c["status"] == "fail"]
    assert ended.status == 2 and "nobody/nothing" in failed[0]["text"]


def test_a_job_that_is_not_sound_is_not_planned(ftcli):
    for verb in ("plan", "check"):
        ended = ftcli(verb, "qlora_mini", "method.lora_rnk=4")
        assert ended.status == 2 and "lora_rnk" in ended.err and ended.out == ""
