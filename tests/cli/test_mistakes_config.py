"""Mistakes 1, 2, 3 and 9 of a user's configuration, each one message through the command itself."""

from __future__ import annotations

import pytest

MY = """\
# a job of mine
defaults:
  - qlora_mini
  - _self_

model:
  path: asset:llama_mini

method:
  r: 8
"""


@pytest.fixture
def mine(work):
    def write(more: str = "") -> str:
        (work / "configs").mkdir(exist_ok=True)
        (work / "configs" / "my.yaml").write_text(MY + more)
        return "configs/my.yaml"

    return write


def test_1_a_misspelt_key(ftcli, mine):
    ended = ftcli("train", mine("  lora_rnk: 4\n"))
    assert ended.status == 2
    assert ended.err == (
        "configs/my.yaml:11  method.lora_rnk is not a key of method=qlora. Did you mean method.r?\n"
        "    lora_rnk: 4\n"
        "→ write `r: 4` there\n"
    )


def test_1_a_key_of_another_group(ftcli, mine):
    ended = ftcli("train", mine("learning_rate: 1e-4\n"))
    assert ended.err == (
        "configs/my.yaml:11  learning_rate is not a key of a job. Did you mean optimizer.lr?\n"
        "    learning_rate: 1e-4\n"
        "→ write `lr: 0.0001` under `optimizer:`\n"
    )


def test_1_a_misspelt_group(ftcli, mine):
    ended = ftcli("train", mine("optimiser:\n  lr: 1e-4\n"))
    assert ended.err == (
        "configs/my.yaml:11  optimiser is not a key of a job. Did you mean optimizer?\n"
        "    optimiser:\n"
        "→ write `optimizer:` there\n"
    )


def test_2_a_wrong_type(ftcli, mine):
    ended = ftcli("train", mine(), "optimizer.lr=1e-4x")
    assert ended.status == 2
    assert ended.err == (
        "optimizer.lr='1e-4x' at command line: expected a number.\n"
        "→ see: ftcli schema optimizer.lr\n"
    )


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "'1e-4'", "0.0001"])
def test_2_numbers_are_accepted_as_people_write_them(ftcli, mine, written):
    shown = ftcli("show", mine(f"optimizer: {{lr: {written}}}\n"))
    assert shown.status == 0 and "  lr: 0.0001 " in shown.out


def test_3_an_unknown_option(ftcli, mine):
    ended = ftcli("train", mine(), "method=lroa")
    assert ended.status == 2
    first, fix = ended.err.splitlines()
    assert first.startswith("command line  method=lroa: no such method. Closest: lora")
    assert fix.endswith("available: ftcli ls methods")


def test_9_a_contradiction(ftcli):
    ended = ftcli("train", "qlora_mini", "model.quantization=none")
    assert ended.status == 2
    first, fix = ended.err.splitlines()
    assert first == (
        "method=qlora with model.quantization=none (command line): QLoRA needs a quantised base."
    )
    assert fix == "→ either model.quantization=nf4 or method=lora"


def test_9_all_contradictions_at_once(ftcli, mine):
    job = mine("data: {packing: flat}\n")
    ended = ftcli("train", job, "model.quantization=none", "model.attention=eager")
    assert ended.status == 2
    assert "model.quantization=none" in ended.err
    assert "data.packing=flat (configs/my.yaml:11) with model.attention=eager" in ended.err


def test_nothing_is_left_behind_by_a_mistake(ftcli, mine, work):
    ftcli("train", mine(), "optimizer.lr=1e-4x")
    assert [p.name for p in work.iterdir()] == ["configs"]
