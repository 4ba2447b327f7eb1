"""`ftcli plan` as a user runs it."""

import json
import os
import subprocess
import sys

import pytest

PAPER = ("plan", "qlora_mini", "model=llama3_8b", "method.r=64", "--gpu", "24")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Run the command in a process of its own, without network; its stdout."""
    folder = tmp_path_factory.mktemp("work")

    def call(*words):
        done = subprocess.run(
            [sys.executable, "-m", "ftcli", *words], capture_output=True, text=True, cwd=folder,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "FTCLI_CACHE": str(folder / "cache")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def paper(command):
    return json.loads(command(*PAPER, "--json"))


def test_paper_scale_without_network(paper):
    assert paper["parameters"] == 8_030_261_248
    assert paper["trainable"] == 167_772_160
    assert paper["bits_per_quantised_weight"] == pytest.approx(4.127, abs=5e-4)
    assert paper["memory"]["weights"] == paper["weights"]["quantised"] + paper["weights"]["rest"]
    assert paper["schedule"]["notes"] and paper["time"] is None


def test_a_plan_that_does_not_fit_is_information_and_names_ways_out(paper):
    assert not paper["fits"] and paper["memory"]["total"] > 24e9
    assert all(way["total"] <= 24e9 for way in paper["alternatives"])
    largest = paper["largest_micro_batch"]
    assert 0 < largest["plain"] < largest["gradient_checkpointing"]


def test_what_a_person_reads(command):
    shown = command(*PAPER)
    for words in (
        "8,030,261,248", "167,772,160", "4.127 bits each", "activations", "logits",
        "DOES NOT FIT a GPU of 24 GB", "largest micro-batch", "needs about", "fits with",
        "ftcli train", "no earlier run of this kind",
    ):  # fmt: skip
        assert words in shown


def test_the_shipped_job_is_planned_from_its_real_rows(ftcli, tmp_path):
    ended = ftcli("plan", "qlora_mini", "data.limit=300", "trainer.max_steps=null",
                  "trainer.epochs=2", f"data.cache_dir={tmp_path}", "--json")  # fmt: skip
    plan = json.loads(ended.out)
    known = plan["schedule"]
    assert ended.status == 0 and plan["fits"]
    assert known["steps"] == -(-2 * known["batches"]) and known["tokens"] > known["supervised"] > 0
    assert known["total_tokens"] == 2 * known["tokens"]
    assert plan["row_tokens"] == known["longest"] < 512


def test_nothing_is_left_behind(ftcli, work, tmp_path):
    ftcli("plan", "qlora_mini", "data.limit=20", f"data.cache_dir={tmp_path}", "--gpu", "8")
    assert list(work.iterdir()) == []
