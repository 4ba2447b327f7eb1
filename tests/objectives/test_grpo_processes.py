"""Two ranks, each with prompts and answers of its own, train one model through two stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftcli.config import compose, validate_and_convert
from ftcli.core.run_dir import RunDir
from ftcli.jobs import stages
from ftcli.jobs.launch import LaunchTopology

pytestmark = pytest.mark.slow
JOB = """
defaults: [qlora_mini, {override /method: dora}, {override /eval: none}, _self_]
method: {r: 2, use_rslora: true}
model: {quantization: none, dtype: float32}
data: {limit: 40, validation: null, test: null}
trainer: {precision: fp32, batch_size: 2, max_steps: 2, log_every: 1, eval_every: null}
optimizer: {lr: 1.0e-3}
stages:
  sft: []
  grpo:
    - objective=grpo_dapo
    - "objective.rewards={cosine_length: {weight: 1.0, judge: exact_match, unit: characters, longest: 60}}"
    - objective.num_generations=3
    - objective.max_new_tokens=6
    - objective.mask_truncated=false
    - +objective.num_iterations=2
    - trainer.max_steps=4
    - optimizer.lr=1e-2
"""


def test_two_ranks_go_through_both_stages(tmp_path):
    file = tmp_path / "two.yaml"
    file.write_text(JOB)
    composed = compose(file, [f"run.dir={tmp_path}", f"data.cache_dir={tmp_path / 'tokens'}"])
    validate_and_convert(composed)
    result = stages.start_stages(composed, LaunchTopology(2))
    assert result["status"] == "finished" and result["step"] == 2 + 4
    first, second = (Path(result["run"]) / name for name in ("sft", "grpo"))
    rows = [row for row in RunDir(second).metrics() if "reward" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    # the second step is on the same answers, and the policy has moved away from them
    assert rows[0]["reward"] == rows[1]["reward"] and rows[0]["loss"] != rows[1]["loss"]
    before, after = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (first, second)
    )
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert not any(torch.equal(before[name], after[name]) for name in before)
