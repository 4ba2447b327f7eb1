"""`ftcli check` as a user runs it."""

import json
import os
import subprocess
import sys
import time

SECONDS = 5


def names(ended, status):
    return [c["name"] for c in json.loads(ended.out)["checks"] if c["status"] == status]


def test_the_shipped_job_is_sound(ftcli, work):
    ended = ftcli("check", "qlora_llama", "--json")
    found = json.loads(ended.out)
    assert ended.status == 0 and found["ok"]
    assert names(ended, "ok") == [
        "config", "model", "targets", "data", "template", "mask", "lengths", "memory", "disk",
    ]  # fmt: skip
    assert sum(bar["documents"] for bar in found["lengths"]) > 200
    assert list(work.iterdir()) == []


def test_what_a_person_reads(ftcli):
    shown = ftcli("check", "qlora_llama").out
    for words in (
        "✓ config",
        "q_proj 8",
        "columns mr, ref",
        "% of the tokens are learned, every end of turn too",
        "█",
    ):
        assert words in shown


def test_paper_scale_without_network_warns_and_does_not_fail(ftcli, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ended = ftcli("check", "qlora_llama", "model=llama3_8b", "method.r=64", "--gpu", "80",
                  "trainer.batch_size=4", "--json")  # fmt: skip
    assert ended.status == 0
    assert names(ended, "warn") == ["model", "tokens"]
    targets = next(c for c in json.loads(ended.out)["checks"] if c["name"] == "targets")
    assert "167,772,160 of 8,030,261,248" in targets["text"]


def test_data_of_a_hub_out_of_reach_are_a_warning(ftcli, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    ended = ftcli("check", "qlora_llama", "data=prompt", "data.path=nobody/nothing", "--json")
    assert ended.status == 0 and "data" in names(ended, "warn")


def test_an_optimizer_that_needs_cuda_names_its_stand_in(ftcli):
    ended = ftcli("check", "qlora_llama", "optimizer=paged_adamw8bit", "--json")
    found = json.loads(ended.out)["checks"]
    said = [c["text"] for c in found if c["name"] == "optimizer"]
    assert ended.status == 0 and "AdamW8bit takes the place of bitsandbytes.optim.Paged" in said[0]


def test_a_disk_that_is_too_small_is_a_failure(ftcli, monkeypatch):
    monkeypatch.setattr("ftcli.planning.check.free_disk", lambda folder: 1000)
    ended = ftcli("check", "qlora_llama", "--json")
    assert ended.status == 2 and names(ended, "fail") == ["disk"]


def test_it_takes_less_than_5_seconds(tmp_path):
    """On an idle machine; other work makes everything longer by as much as processors are short."""
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "ftcli", "check", "configs/qlora_llama.yaml"], cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True,
        )  # fmt: skip
        spent.append(time.perf_counter() - began)
        waiting = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        if spent[-1] < SECONDS * waiting:
            break
    assert min(spent) < SECONDS * waiting
