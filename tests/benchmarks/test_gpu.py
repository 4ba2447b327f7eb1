"""Kernels of the peers, operations a token, and a budget that ends the runs; no GPU is needed."""

from __future__ import annotations

import subprocess

import gpu
import pytest
from workload import SHAPES


def test_peers_take_what_is_installed(monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: name == "flash_attn" or None)
    assert gpu.choose_kernels("plain", False) == {"attention": "flash_attention_2", "flatten": True}
    assert gpu.choose_kernels("trl", False) == {"attention": "flash_attention_2", "liger": False}
    assert gpu.choose_kernels("plain", True) == {"attention": "sdpa", "flatten": False}
    assert gpu.name_missing(False) == ["Liger"]


def test_operations_of_8b_are_four_a_frozen_weight():
    found = gpu.count_operations(SHAPES["llama3-8b"], {"label_share": 0.0})
    weights = 6_979_321_856  # in the linear layers of the blocks
    assert found == pytest.approx(4 * weights / 1e9, rel=0.02)


def test_runs_out_of_time_are_named(tmp_path):
    records = gpu.run_all(["nano"], tmp_path, True, lambda: 0.0)
    assert [r["error"] for r in records] == ["left out: no time"] * 6
    assert [(r["method"], r["program"]) for r in records][3:] == [
        ("QLoRA", p) for p in gpu.PROGRAMS
    ]


def test_without_a_gpu_the_script_says_how_to_exercise_it(monkeypatch):
    if gpu.torch.cuda.is_available():
        pytest.skip("a GPU is visible")
    monkeypatch.setattr(gpu.sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="--cpu-dry-run"):
        gpu.main()


def test_the_script_wants_wheels_or_a_dry_run():
    done = subprocess.run(
        ["bash", str(gpu.ROOT / "benchmarks/gpu.sh")], capture_output=True, text=True
    )
    assert done.returncode != 0 and "--cpu-dry-run" in done.stderr
