"""`ftcli cp`: a start of one's own, never over a file."""

from __future__ import annotations

import json

import pytest

from ftcli.config import configs_dir


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("qlora_mini", "qlora_mini.yaml"),
        ("configs/qlora_mini.yaml", "qlora_mini.yaml"),
        ("method/lora", "method/lora.yaml"),
        ("lora", "method/lora.yaml"),
        ("llama3_8b", "model/llama3_8b.yaml"),
    ],
)
def test_a_name_is_copied_to_a_file(ftcli, work, name, source):
    assert ftcli("cp", name, "mine").status == 0
    assert (work / "mine.yaml").read_bytes() == (configs_dir() / source).read_bytes()


def test_into_a_folder_as_json(ftcli, work):
    done = json.loads(ftcli("cp", "lora", "own/method/", "--json").out)
    assert done["to"] == "own/method/lora.yaml" and (work / done["to"]).is_file()


def test_an_existing_file_is_kept_unless_forced(ftcli, work):
    (work / "mine.yaml").write_text("mine\n")
    refused = ftcli("cp", "lora", "mine.yaml")
    assert refused.status == 2 and "exists already" in refused.err and "--force" in refused.err
    assert (work / "mine.yaml").read_text() == "mine\n"
    assert ftcli("cp", "lora", "mine.yaml", "--force").status == 0
    assert (work / "mine.yaml").read_text() != "mine\n"


def test_a_wrong_name_and_one_that_is_in_several_groups(ftcli):
    assert "Closest: lora" in ftcli("cp", "lroa", "x").err
    ambiguous = ftcli("cp", "default", "x")
    assert ambiguous.status == 2 and "logger/default, run/default, trainer/default" in ambiguous.err


def test_a_copied_job_runs_from_anywhere(ftcli):
    assert ftcli("cp", "qlora_mini", "my.yaml").status == 0
    assert ftcli("show", "my.yaml").status == 0
