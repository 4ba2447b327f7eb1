"""`ftcli schema` as people call it; what it holds is tested in tests/config."""

from __future__ import annotations

import json


def test_the_schema_of_a_job_is_json(ftcli):
    schema = json.loads(ftcli("schema").out)
    assert schema["title"] == "ftcli job" and "trainer" in schema["properties"]


def test_a_key_in_four_lines_and_as_json(ftcli):
    lines = ftcli("schema", "optimizer.lr").out.splitlines()
    assert lines[:3] == ["optimizer.lr", "type     a number", "default  0.0002"]
    assert lines[3].startswith("meaning  ") and lines[4].startswith("used by  ")
    (entry,) = json.loads(ftcli("schema", "optimizer.lr", "--json").out)
    assert entry["schema"] == {"type": "number"}


def test_a_group_is_a_table(ftcli):
    table = ftcli("schema", "trainer").out
    assert "trainer.batch_size" in table and "trainer.epochs" in table


def test_a_key_that_is_not_there(ftcli):
    wrong = ftcli("schema", "optimizer.learning_rate")
    assert wrong.status == 2 and "Did you mean optimizer.lr?" in wrong.err


def test_callbacks_are_apart_in_their_table(ftcli):
    rows = [line.strip() for line in ftcli("schema", "callback").out.splitlines()]
    last = next(i for i, row in enumerate(rows) if row.startswith("callback.early_stopping.mode"))
    assert rows[last + 1] == "" and rows[last + 2].startswith("callback.ema.decay")
