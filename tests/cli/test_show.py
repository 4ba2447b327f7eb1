"""`ftcli show`: YAML that runs alone, with the origin of each value."""

from __future__ import annotations

import json

import yaml

from ftcli.config import compose, validate_and_convert


def test_what_is_shown_composes_to_the_same_job(ftcli, work):
    shown = ftcli("show", "qlora_mini", "optimizer.lr=1e-5", "data.system='a: b # c'")
    assert shown.status == 0
    (work / "again.yaml").write_text(shown.out)
    again = compose("again.yaml")
    validate_and_convert(again)
    first = compose("qlora_mini", ["optimizer.lr=1e-5", "data.system='a: b # c'"])
    validate_and_convert(first)
    assert again.config == first.config


def test_each_value_has_its_origin_in_one_column(ftcli, work):
    (work / "my.yaml").write_text("defaults: [qlora_mini, _self_]\nseed: 3\n")
    shown = ftcli("show", "my.yaml", "trainer.epochs=1").out
    line = {text.split(":")[0].strip(): text for text in shown.splitlines()}
    assert line["seed"].endswith("# my.yaml:2")
    assert line["epochs"].endswith("# command line") and "1.0" in line["epochs"]
    assert line["name"].endswith("# my.yaml")
    columns = {text.rindex("  # ") for text in shown.splitlines() if "  # " in text}
    assert len(columns) == 1


def test_as_json(ftcli):
    shown = json.loads(ftcli("show", "qlora_mini", "seed=5", "--json").out)
    assert shown["config"]["seed"] == 5 and shown["origins"]["seed"] == "command line"
    assert shown["choices"]["method"] == "qlora"


def test_a_wrong_job_is_shown_all_the_same_and_its_problems_after_it(ftcli):
    shown = ftcli("show", "qlora_mini", "method.lora_rnk=8")
    assert shown.status == 2
    assert yaml.safe_load(shown.out)["method"]["lora_rnk"] == 8
    assert "Did you mean method.r?" in shown.err
