"""Diffusion through the same loop: exact resumption, grids of images, a run of zero steps."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ftcli.config import compose, validate_and_convert
from ftcli.core.callback import Callback
from ftcli.core.run import Run
from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import resume, train_with_lock
from ftcli.run.build import create_run_in_new_dir, open_run

NEW = ("~model.from_recipe", "model=ldm_emoji", "data.limit=24", "data.test=null")
SARA = (
    *NEW, "~eval.original", "trainer.max_steps=4", "trainer.batch_size=4", "trainer.log_every=1",
    "eval.denoising.levels=2", "data.validation=0.2", "method.share=0.02",
    "objective.caption_dropout=0.2", "penalty.nuclear.weight=0.01",
    "trainer.gradient_accumulation_steps=2",
)  # fmt: skip


class Stop(Callback):
    """Requests a stop after a step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def after_step(self, state) -> None:
        if state.step == self.step:
            (state.run.dir.path / "STOP").touch()


def train(folder, job: str, *overrides: str, stop: int | None = None) -> Run:
    composed = compose(job, [*overrides, f"run.dir={folder}"])
    validate_and_convert(composed)
    run = create_run_in_new_dir(composed)
    run.loggers["stop"] = Stop(stop)
    train_with_lock(run, None)
    return run


def read_checkpoint(path) -> dict[str, torch.Tensor]:
    return load_file(path / "checkpoints" / "last" / "adapter.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """SaRA on new weights, four steps in one go; entries are selected anew after the second."""
    return train(tmp_path_factory.mktemp("whole"), "sara", *SARA)


@pytest.mark.parametrize("stop", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_run_stopped_before_or_after_a_selection_and_resumed_is_the_same(whole, tmp_path, stop):
    half = train(tmp_path, "sara", *SARA, stop=stop)
    assert RunDir(half.dir.path).result()["step"] == stop
    resume(half.dir.path)
    expected, resumed = read_checkpoint(whole.dir.path), read_checkpoint(half.dir.path)
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    losses = [
        [row["loss"] for row in RunDir(path).metrics() if "loss" in row]
        for path in (whole.dir.path, half.dir.path)
    ]
    assert losses[0] == losses[1] and len(set(losses[0])) == 4


def test_an_opened_run_has_the_trained_weights(whole):
    opened = open_run(whole.dir.path)
    score = opened.evaluators["denoising"]
    after = RunDir(whole.dir.path).result()["metrics"]["eval.loss"]
    assert score(opened)["loss"] == pytest.approx(after, rel=1e-6)
    saved = whole.dir.path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    names = load_file(saved)
    assert names and not any("parametrizations" in name for name in names)


def test_lora_on_the_denoiser_trains_and_merges(tmp_path):
    lora = ("~penalty", "method=lora", "method.r=2", "method.target_modules=[to_q,to_v]")
    sara = [o for o in SARA if not o.startswith(("method.", "penalty."))]
    run = train(tmp_path, "sara", *sara, *lora, "objective.caption_dropout=0")
    result = RunDir(run.dir.path).result()
    assert 0 < result["trainable_parameters"] < 0.05 * result["total_parameters"]
    before, after = (result[key]["eval.loss"] for key in ("metrics_before", "metrics"))
    assert before != after
    merged = run.method.merge(run.model)
    run.model = merged
    assert run.evaluators["denoising"](run)["loss"] == pytest.approx(after, rel=1e-4)


def test_the_base_writes_a_grid_and_a_model(tmp_path):
    run = train(
        tmp_path, "bases/ldm_emoji", "data.limit=16", "data.validation=0.3", "trainer.max_steps=1",
        "trainer.batch_size=2", "eval.image_grid.steps=2", "eval.image_grid.count=3",
        "eval.image_grid.columns=2",
    )  # fmt: skip
    grid = Image.open(run.dir.path / "images" / "samples-000001.png")
    assert grid.width == (2 * 34 + 2) * 4 and grid.height == (4 * 34 + 2) * 4
    assert (run.dir.path / "model" / "model_index.json").is_file()


def test_zero_steps_write_images_scores_and_a_result(tmp_path):
    run = train(
        tmp_path, "styleid", *NEW[:2], "data.validation=0.3", "eval.style_transfer.steps=2",
        "eval.style_transfer.contents=2", "eval.style_transfer.styles=2",
    )  # fmt: skip
    result = RunDir(run.dir.path).result()
    assert result["status"] == "finished" and result["step"] == 0
    assert result["trainable_parameters"] == 0
    assert result["metrics"]["eval.denoiser_images"] == 2 * (2 + 2 + 4)
    picture = Image.open(run.dir.path / "images" / "style_transfer.png")
    assert picture.size == ((3 * 34 + 2) * 4, (3 * 34 + 2) * 4)
