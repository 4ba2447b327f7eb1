"""A small campaign; `make chaos N=200` is the large one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(kinds: str, kills: int, folder: Path) -> str:
    """Lines of a campaign that must have gone well.

    A process of its own: copies of one that has threads, as pytest's may have, can hang.
    """
    words = ["--kinds", kinds, "--kills", str(kills), "--keep", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *words],
        cwd=ROOT, env=os.environ | {"PYTHONSAFEPATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_was_killed_and_went_on_is_what_was_left_alone(tmp_path):
    said = run("lora_nf4,mezo,grpo", 8, tmp_path)
    assert said.count(" identical ") >= 3 and "DIFFERS" not in said and "all equal" in said


@pytest.mark.slow
def test_every_kind_and_whatever_starts_other_processes(tmp_path):
    assert "all equal" in run("lisa,spiel,qst,diffusion,sweep,reproduction", 24, tmp_path)
