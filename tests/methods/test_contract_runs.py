"""Every method, trainable policy, penalty and optimizer in real runs: resumed bit by bit, read back."""

from __future__ import annotations

from types import SimpleNamespace

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ftcli.core.callback import Callback
from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.deltas.merge import ROUNDING
from ftcli.jobs.train import resume, train_with_lock
from ftcli.run.build import create_run_in_new_dir, open_run

from .options import capabilities, capability, options
from .test_contract import furthest
from .tiny import logits
from .tiny_runs import JobBuilder, apply_fix, without_report

CLOCK = {"time", "tok_s", "mem_gb"}
EVALUATION = {"eval": "loss", "eval.loss.limit": "4", "trainer.gradient_accumulation_steps": "2"}
OPTIONS = [
    (group, name)
    for group in ("method", "trainable", "penalty", "optimizer")
    for name in options(group)
]


class Watch(Callback):
    """Notes what there is once every callback is set up; stops where told to."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop

    def setup(self, run) -> None:
        self.start = logits(run.model)
        self.weights = {name: t.clone() for name, t in run.get_trained_tensors().items()}

    def after_step(self, state) -> None:
        if state.step == self.stop:
            (state.run.dir.path / "STOP").touch()


def trained(composed, stop: int | None = None):
    run = create_run_in_new_dir(composed)
    watch = run.loggers["watch"] = Watch(stop)
    train_with_lock(run, None)
    return SimpleNamespace(run=run, path=run.dir.path, start=watch.start, weights=watch.weights)


def on_what_it_fits(builder: JobBuilder, group: str, name: str):
    """The option trained on LoRA, or on what the messages send it to; how it had to be called."""
    choices = {group: name} | EVALUATION
    needs = capabilities(name, group).get("optimizer")
    if needs:
        choices["optimizer"] = needs
    for _ in range(6):
        try:
            composed = builder.job(choices)
            return composed, trained(composed)
        except UserError as error:
            choices = apply_fix(choices, error)
            assert choices.get(group) == name, f"{group}={name} fits nothing: {error}"
    raise AssertionError(f"{group}={name} still does not train with {choices}")


@pytest.fixture(scope="session")
def builder(tmp_path_factory) -> JobBuilder:
    return JobBuilder(tmp_path_factory.mktemp("builder"))


@pytest.fixture(scope="module", params=OPTIONS, ids="-".join)
def story(request, builder):
    """Four steps in one go; two steps, a stop, and two more after a resume."""
    group, name = request.param
    with without_report():
        composed, whole = on_what_it_fits(builder, group, name)
        half = trained(composed, stop=2)
        assert RunDir(half.path).result()["status"] == "stopped by STOP"
        assert RunDir(half.path).result()["step"] == 2
        resume(half.path)
    reopened = open_run(half.path)
    return SimpleNamespace(
        group=group, name=name, method=composed.choices["method"], whole=whole, resumed=half.path,
        source=whole.run.model_source, reopened=reopened, reopened_logits=logits(reopened.model),
    )  # fmt: skip


def test_stopped_and_resumed_equals_undisturbed(story):
    first, second = (
        load_file(path / "checkpoints/last/adapter.safetensors")
        for path in (story.whole.path, story.resumed)
    )
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
    figures = [
        [{k: v for k, v in row.items() if k not in CLOCK} for row in RunDir(path).metrics()]
        for path in (story.whole.path, story.resumed)
    ]
    assert figures[0] == figures[1]
    assert [row["step"] for row in figures[0] if "loss" in row] == [1, 2, 3, 4]
    assert len({row["loss"] for row in figures[0] if "loss" in row}) == 4


def test_weights_move(story):
    after, before = story.whole.run.get_trained_tensors(), story.whole.weights
    assert after.keys() != before.keys() or any(not torch.equal(after[n], before[n]) for n in after)


def test_a_checkpoint_is_enough_to_compute_what_was_trained(story):
    with story.whole.run.evaluation_weights():
        assert torch.equal(story.reopened_logits, logits(story.whole.run.model))


def test_the_first_step_begins_at_the_base_where_declared(story):
    base = logits(story.source.load("cpu"))
    # rounding: what is taken out of a weight and added again may be ten times as large as the weight
    same = furthest(story.whole.start, base) < 1e-5
    assert same == (capabilities(story.method).get("identity", True) is True)


def test_the_artefact_loads_without_ftcli(story):
    folder = story.whole.path / capability(story.method, "artefact")
    if folder.name == "model":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        model = peft.PeftModel.from_pretrained(story.source.load("cpu"), folder)
    with story.whole.run.evaluation_weights():
        assert furthest(logits(model), logits(story.whole.run.model)) < 1e-5


def test_merged_equals_trained(story):
    run, before = story.reopened, story.reopened_logits
    if story.source.quantization != "none" or not capability(story.method, "mergeable"):
        with pytest.raises(UserError, match="cannot be merged|lose the adapter to rounding"):
            run.method.merge(run.model)
    else:
        assert furthest(logits(run.method.merge(run.model)), before) < ROUNDING[torch.float32]


@pytest.mark.parametrize(
    "name",
    [n for n in options("method") if not capabilities(n).get("gradient_checkpointing", True)],
)
def test_what_cannot_be_recomputed_is_refused_by_the_check(name, builder):
    with pytest.raises(UserError, match="gradient_checkpointing"):
        builder.job({"method": name, "trainer.gradient_checkpointing": "true"})
