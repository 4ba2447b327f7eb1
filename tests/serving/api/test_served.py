"""Runs that are served together: their names, and one base in memory where they share it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.run.build import open_run
from ftcli.serving.api.served import name_runs, open_models
from ftcli.serving.api.shared_base import can_share_base


@pytest.fixture(scope="module")
def models(lora_run, tuned, full_run):
    """LoRA, all weights, and LoRA again; the base has the same files."""
    return open_models([lora_run, full_run, tuned])


def test_adapters_of_one_base_share_it_and_a_full_run_does_not(models, lora_run):
    first, full, last = models
    assert [served.name for served in models] == ["lora16", "full", "talks"]
    assert first.run.model is last.run.model and full.run.model is not first.run.model
    assert (first.adapter, full.adapter, last.adapter) == ("default", None, "run2")
    assert first.chat.run.dir.path == Path(lora_run).resolve()


def test_each_name_computes_what_its_run_computes(models, lora_run, tuned, full_run):
    ids = torch.tensor([[1, 50, 60, 70]])
    seen = []
    for served, path in [*zip(models, (lora_run, full_run, tuned), strict=True)] * 2:
        with served.active() as model:
            logits = model(input_ids=ids).logits
        seen.append(logits)
        torch.testing.assert_close(logits, _logits(path, ids), rtol=0, atol=0)
    assert not torch.equal(seen[0], seen[2])


CHANGES = {
    "nothing": ("config.yaml", "seed: 0", "seed: 1"),
    "initial weights": ("config.yaml", "method:\n", "method:\n  init_lora_weights: pissa\n"),
    "precision": ("config.yaml", "precision: fp32", "precision: bf16"),
    "dtype": ("config.yaml", "dtype: float32", "dtype: bfloat16"),
    "files": ("base.json", "model.safetensors", "other.safetensors"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_base_is_shared_only_where_nothing_differs(models, tuned, tmp_path, change):
    name, before, after = CHANGES[change]
    other = tmp_path / "other"
    shutil.copytree(tuned, other, symlinks=True)
    text = (other / name).read_text()
    assert before in text
    (other / name).write_text(text.replace(before, after, 1))
    assert can_share_base(models[0].run, other) == (change == "nothing")
    assert not can_share_base(models[1].run, other)  # all weights


def test_a_quantised_base_is_another_one(models, trained_run):
    assert not can_share_base(models[0].run, trained_run)


def test_a_run_twice_and_a_folder_that_is_none_are_refused(lora_run, tmp_path):
    with pytest.raises(UserError, match="named twice"):
        open_models([lora_run, lora_run])
    with pytest.raises(UserError, match="not a run"):
        open_models([tmp_path])


def test_names_are_those_of_jobs_and_longer_where_several_are_alike():
    stamp, later = "2026-01-02_03-04-05-abcd", "2026-01-02_03-04-06-abcd"
    folders = [Path("/r/a") / stamp, Path("/r/b") / stamp, Path("/r/a") / later, Path("/r/mine")]
    assert name_runs(folders) == [f"a/{stamp}", "b", f"a/{later}", "mine"]
    assert name_runs([Path("/r/a") / stamp, Path("/s/a") / stamp]) == [
        f"/r/a/{stamp}",
        f"/s/a/{stamp}",
    ]


@torch.no_grad()
def _logits(path, ids):
    run = open_run(path)
    with run.autocast():
        return run.model(input_ids=ids).logits
