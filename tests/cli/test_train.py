"""`ftcli train` through the command: what a person sees, and what a mistake leaves behind."""

from __future__ import annotations

import json
import re

TINY = (
    "eval=none", "data.limit=64", "method.r=2", "model.dtype=float32", "trainer.precision=fp32",
    "trainer.batch_size=4", "trainer.log_every=2",
)  # fmt: skip


def test_the_screen_shows_the_figures_of_metrics_jsonl(ftcli, work):
    """The loss falls within these steps, so that an average over lines would show."""
    ended = ftcli("train", "qlora_llama", *TINY, "trainer.max_steps=6", "optimizer.lr=5e-3")
    assert ended.status == 0, ended.err
    shown = re.findall(r"^step (\d+)/6  loss (\S+) · lr (\S+)", ended.out, re.MULTILINE)
    lines = (work / "runs/qlora_llama/latest/metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert shown == [(str(r["step"]), f"{r['loss']:.4f}", f"{r['lr']:.2e}") for r in rows]
