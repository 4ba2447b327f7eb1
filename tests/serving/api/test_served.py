"""Runs that are served together: their names, and one base in memory where they share it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.run.build import open_run
from ftcli.serving.api.served import name_runs, open_models

LORA = ("model.quantization=none", "eval=none", "method=lora", "trainer.max_steps=2")


@pytest.fixture(scope="module")
def small_run(train_tiny):
    """LoRA of rank 4 with another seed, on the base of `lora_run`."""
    return train_tiny("run.name=lora4", "method.r=4", "seed=1", *LORA)


@pytest.fixture(scope="module")
def models(lora_run, small_run, full_run):
    return open_models([lora_run, full_run, small_run])


def test_adapters_of_one_base_share_it_and_a_full_run_does_not(models, lora_run):
    first, full, small = models
    assert [served.name for served in models] == ["lora16", "full", "lora4"]
    assert first.run.model is small.run.model and full.run.model is not first.run.model
    assert (first.adapter, full.adapter, small.adapter) == ("default", None, "run2")
    assert first.chat.run.dir.path == Path(lora_run).resolve()


def test_each_name_computes_what_its_run_computes(models, lora_run, small_run, full_run):
    ids = torch.tensor([[1, 50, 60, 70]])
    seen = []
    for served, path in [*zip(models, (lora_run, full_run, small_run), strict=True)] * 2:
        with served.active() as model:
            logits = model(input_ids=ids).logits
        seen.append(logits)
        torch.testing.assert_close(logits, _logits(path, ids), rtol=0, atol=0)
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize(
    "change", [("model.quantization=nf4",), ("method=dora", "method.init_lora_weights=pissa")]
)
def test_another_base_is_loaded_by_itself(train_tiny, lora_run, change):
    other = train_tiny("run.name=apart", *LORA, *change)
    models = open_models([lora_run, other])
    assert models[0].run.model is not models[1].run.model and models[0].adapter is None


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
