"""Conversations are ragged as said, tokens are those that ftcli trains, and a program's figures are its own."""

from __future__ import annotations

import side_by_side
import workload
from peers import meter
from workload import SHAPES


def count_words(messages):
    return sum(len(message["content"].split()) for message in messages)


def test_conversations_have_the_three_kinds_and_repeat():
    problems = [{"question": "q " * 40, "answer": "a " * 60, "final": "7"}]
    drawn = list(workload.draw_conversations(problems, 400, count_words))
    assert drawn == list(workload.draw_conversations(problems, 400, count_words))
    lengths = [count_words(messages) for messages in drawn]
    assert set(lengths) == {41, 100, 500}
    assert abs(lengths.count(41) / 400 - workload.SHORT) < 0.08
    assert all(
        m["role"] == ("user", "assistant")[i % 2] for row in drawn for i, m in enumerate(row)
    )


def test_a_workload_is_a_model_and_rows_of_about_160_tokens(tmp_path):
    workload.write_workload(tmp_path, SHAPES["nano"], "float32", 200, 4)
    found = workload.describe_rows(tmp_path)
    assert found["rows"] == 200
    assert 140 < found["mean_length"] < 185
    assert found["p90_length"] > 1.8 * found["mean_length"]
    assert found["longest"] <= 1024
    assert 0.2 < found["label_share"] < 0.7

    task = side_by_side.build_task(tmp_path, "fp32", 4, 4)
    own = side_by_side.run_program("ftcli", side_by_side.find_python("ftcli", tmp_path), task)
    rows = meter.read_tokens(task)
    assert own["tokens"] == sum(
        len(row["input_ids"]) for row in rows
    )  # the same rows in the same steps
    assert own["trained"] == 35_840
    assert own["first_step_s"] > 0 and own["peak_mb"] > 100


def test_a_failed_program_is_a_record_with_its_last_line(tmp_path):
    task = side_by_side.build_task(tmp_path / "nowhere", "fp32", 4, 4)
    found = side_by_side.run_program("plain", side_by_side.find_python("plain", tmp_path), task)
    assert list(found) == ["error"] and found["error"]


def test_a_program_without_its_environment_is_missing(tmp_path):
    assert side_by_side.find_python("trl", tmp_path) is None
    (tmp_path / "trl/bin").mkdir(parents=True)
    (tmp_path / "trl/bin/python").touch()
    assert side_by_side.find_python("trl", tmp_path) == tmp_path / "trl/bin/python"


def test_packs_hold_a_step_and_the_longest_row():
    rows = [{"input_ids": [0] * n} for n in (100, 120, 110)]
    assert meter.pack_length(rows, 4) == 448
    assert meter.pack_length([*rows, {"input_ids": [0] * 700}], 1) == 704


def test_warm_steps_are_not_timed(monkeypatch):
    clock = iter([3.0, 4.0, 5.0, 7.0, 9.0])
    monkeypatch.setattr(meter.time, "time", lambda: next(clock))
    one = meter.Meter({"began": 1.0, "marks": [5]})
    for tokens in (10, 20, 30, 50, 90):
        one.end_step(tokens)
    found = one.figures()
    assert found["tok_s"] == 60 / 4
    assert found["step_s"] == 2.0 and found["first_step_s"] == 2.0
    assert list(found["peak_mb_at"]) == [5]
    assert found["peak_mb_at"][5] > 0
