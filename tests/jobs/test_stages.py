"""Stages: each an ordinary run that begins where the one before ended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftcli.cli.result_tables import build_stage_table
from ftcli.config import compose, load, validate_and_convert
from ftcli.core.errors import Problems, UserError
from ftcli.jobs import stages, trial

JOB = """
defaults: [qlora_mini, {override /method: lora}, {override /eval: loss}, _self_]
method: {r: 2}
model: {quantization: none, dtype: float32}
data: {limit: 24, validation: 0.3, test: null}
trainer: {precision: fp32, batch_size: 4, max_steps: 1, eval_every: null}
optimizer: {lr: 1.0e-2}
stages: {first: [], second: [optimizer.lr=2e-2], third: [method=rslora, method.r=4]}
"""


def job(folder: Path, *overrides: str):
    file = folder / "three.yaml"
    file.write_text(JOB)
    places = (f"run.dir={folder}", f"data.cache_dir={folder / 'tokens'}")
    composed = compose(file, [*places, *overrides])
    validate_and_convert(composed)
    return composed


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    return Path(stages.start_stages(job(tmp_path_factory.mktemp("runs")))["run"])


def result(folder: Path) -> dict:
    return trial.read_finished_result(folder) or {}


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_every_stage_is_a_run_that_begins_where_the_one_before_ended(parent):
    assert stages.list_stages(parent) == ["first", "second", "third"]
    losses = [result(parent / name) for name in stages.list_stages(parent)]
    for before, after in zip(losses, losses[1:], strict=False):
        ended, began = (before["metrics"], after["metrics_before"])
        assert began["eval.loss"] == pytest.approx(ended["eval.loss"], abs=1e-5)
    configs = {name: load(parent / name).config for name in stages.list_stages(parent)}
    assert [configs[n]["optimizer"]["lr"] for n in configs] == [1e-2, 2e-2, 1e-2]
    assert all("stages" not in config for config in configs.values())


def test_the_same_method_goes_on_with_its_adapter_another_begins_with_the_merged_model(parent):
    second, third = (load(parent / name).config for name in ("second", "third"))
    assert second["init_from"] == str(parent.resolve() / "first") and "init_from" not in third
    assert third["model"]["path"] == str(parent.resolve() / "second" / "merged")
    assert Path(third["model"]["path"]).is_dir()
    assert {t.shape[0] for n, t in adapter(parent / "third").items() if "lora_A" in n} == {4}


def test_the_whole_has_scores_before_the_first_and_after_the_last_and_costs_of_all(parent):
    whole = result(parent)
    results = [result(parent / name) for name in stages.list_stages(parent)]
    assert whole["metrics_before"] == results[0]["metrics_before"]
    assert whole["metrics"] == results[-1]["metrics"] and whole["step"] == 3
    assert whole["seconds"] == pytest.approx(sum(stage["seconds"] for stage in results))
    assert build_stage_table(whole["stages"]).row_count == 6


def test_resuming_skips_what_is_finished_and_repeats_to_the_same_bits(parent, tmp_path):
    with pytest.raises(UserError, match="finished"):
        stages.resume_stages(parent)
    times = {
        name: (parent / name / "result.json").stat().st_mtime_ns for name in ("first", "second")
    }
    kept = adapter(parent / "third")
    (parent / "result.json").unlink()
    (parent / "third" / "result.json").unlink()
    for name in ("adapter", "checkpoints"):
        shutil.rmtree(parent / "third" / name)
    (parent / "third" / "checkpoints").mkdir()
    assert stages.resume_stages(parent)["status"] == "finished"
    assert {n: (parent / n / "result.json").stat().st_mtime_ns for n in times} == times
    again = adapter(parent / "third")
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_mistakes_of_all_stages_are_said_before_any_begins(tmp_path):
    wrong = 'stages={first: ["optimizer.lrr=1"], second: ["trainer.max_steps=-1"], third: []}'
    composed = job(tmp_path, wrong)
    with pytest.raises(Problems) as caught:
        stages.start_stages(composed)
    message = str(caught.value)
    assert "stage first" in message and "stage second" in message
    assert not (tmp_path / "three").exists()


def test_an_adapter_of_another_method_is_not_gone_on_with(tmp_path):
    composed = job(tmp_path, "handover=continue")
    with pytest.raises(UserError, match="stage third cannot go on with the adapter"):
        stages.start_stages(composed)


def test_a_command_line_holds_for_all_stages(tmp_path):
    jobs = stages.compose_stages(job(tmp_path, "seed=7", "optimizer.lr=5e-3"))
    assert [stage.config["seed"] for stage in jobs.values()] == [7] * 3
    assert [stage.config["optimizer"]["lr"] for stage in jobs.values()] == [5e-3] * 3


def test_a_resumed_job_takes_overrides_in_the_stages_that_are_left(parent, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(parent, whole, symlinks=True)
    with pytest.raises(UserError, match="all its stages are finished") as caught:
        stages.resume_stages(whole, overrides=["trainer.max_steps=2"])
    assert f"ftcli resume {whole / 'third'} trainer.max_steps=2" in str(caught.value)
    (whole / "result.json").unlink()
    (whole / "third" / "result.json").unlink()
    shutil.rmtree(whole / "third" / "checkpoints")
    (whole / "third" / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"optimizer.lr was 0.01 .* now it is 0.5"):
        stages.resume_stages(whole, overrides=["optimizer.lr=0.5"])
    done = stages.resume_stages(whole, overrides=["trainer.max_steps=2", "trainer.log_every=1"])
    assert [stage["step"] for stage in done["stages"].values()] == [1, 1, 2]
    assert load(whole / "third").config["trainer"]["log_every"] == 1
