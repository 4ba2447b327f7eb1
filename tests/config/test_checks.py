"""Contradictions between keys are reported with the origin of both keys and a fix."""

from __future__ import annotations

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import Problems, UserError

PLAIN = ["model.quantization=none"]


def complaints(*overrides: str, job: str = "qlora_mini") -> list[UserError]:
    try:
        validate_and_convert(compose(job, list(overrides)))
    except UserError as error:
        return error.problems if isinstance(error, Problems) else [error]
    return []


CONTRADICTIONS = {
    "an empty batch": (["trainer.batch_size=0"], "trainer.batch_size=0 must be at least 1."),
    "an evaluator's batch": (["eval.loss.batch_size=0"], "eval.loss.batch_size=0 must be at least 1."),
    "no epoch": (["trainer.epochs=0"], "trainer.epochs=0.0 must be more than 0."),
    "a rate of zero": (["optimizer.lr=0"], "must be more than 0."),
    "a rate that is no number": (["optimizer.lr=nan"], "must be more than 0."),
    "no end": (["trainer.epochs=null", "trainer.max_steps=null"], "training would have no end"),
    "full on nf4": (["method=full"], "method=full with model.quantization=nf4 (configs/qlora_mini.yaml:"),
    "full in float16": ([*PLAIN, "method=full", "model.dtype=float16"], "small updates vanish"),
    "float16 under bf16": ([*PLAIN, "method=lora", "model.dtype=float16", "trainer.precision=bf16"], "would mix bfloat16 activations and float16 weights"),
    "packed, eager": (["model.attention=eager", "data.packing=flat"], "data.packing=flat (command line) with model.attention=eager (command line)"),
    "two warmups": (["scheduler.warmup_ratio=0.1", "scheduler.warmup_steps=5"], "are both given"),
    "early stopping, never evaluated": (["callback=early_stopping", "trainer.eval_every=null"], "needs scores while the run trains"),
    "an average of nothing": (["callback=ema", "callback.ema.decay=1"], "callback.ema.decay=1"),
    "qlora without q": (["model.quantization=none"], "model.quantization=none (command line)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_one_message_with_a_fix(write, name):
    overrides, says = CONTRADICTIONS[name]
    (problem,) = complaints(*overrides)
    assert says in problem.what and problem.fix


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.attention=eager", "data.packing=none"],
        [*PLAIN, "method=full"],
        [*PLAIN, "method=lora", "model.dtype=float16"],
        ["model.dtype=bfloat16", "trainer.precision=bf16"],
        ["trainer.epochs=null", "trainer.max_steps=3"],
        ["model.quantization=int8"],
        ["model=llama3_8b"],
        ["callback=[early_stopping,ema,neftune,lora_plus,layer_decay]", "trainer.eval_every=5"],
        ["callback=learning_rates", "callback.learning_rates.factors={*.q_proj.*:0.1}"],
    ],
)
def test_settings_without_contradiction_are_valid(write, overrides):
    assert complaints(*overrides) == []


def test_contradictions_are_reported_together(write):
    problems = complaints(
        "method=full", "model.attention=sdpa", "data.packing=flat", "trainer.batch_size=0"
    )
    assert len(problems) == 3


def test_the_command_line_overrides_the_warmup_of_the_job_with_a_warning(write, caplog):
    assert complaints("scheduler.warmup_steps=5") == []
    assert "scheduler.warmup_ratio=0.03 (configs/qlora_mini.yaml:" in caplog.text


def test_settings_without_effect_give_a_warning(write, caplog):
    assert complaints("trainer.max_steps=2", "trainer.eval_every=5") == []
    assert "evaluated only before and after training" in caplog.text
    assert complaints("model.quantization=int8", "model.compute_dtype=bfloat16") == []
    assert "model.compute_dtype=bfloat16 (command line) is ignored" in caplog.text


RULE = "{one_of: [nf4, int8], because: QLoRA needs a quantised base, or: method=lora}"


@pytest.fixture
def qlora(write):
    write("my.yaml", "defaults: [qlora_mini, _self_]\nmodel:\n  quantization: none\n")


def test_an_option_may_require_values_of_other_keys(qlora):
    (problem,) = complaints(job="my.yaml")
    assert problem.what == (
        "method=qlora with model.quantization=none (my.yaml:3): QLoRA needs a quantised base."
    )
    assert problem.fix == "either model.quantization=nf4 or method=lora"


def test_a_requirement_that_is_met_or_belongs_to_another_option_is_silent(qlora):
    assert complaints("model.quantization=int8", job="my.yaml") == []
    assert complaints("method=lora", job="my.yaml") == []


def test_a_default_meets_a_requirement_too(write):
    write("my.yaml", "defaults: [qlora_mini, _self_]\nrequires: {model.double_quant: [true]}\n")
    assert complaints("~model.double_quant", job="my.yaml") == []
