"""The message of a job that does not fit, and the alternatives it names."""

import pytest

from ftcli.planning.fit import explain_misfit, find_alternatives, format_command
from tests.planning.jobs import build_plan

FULL = ("method=full", "model.quantization=none", "model=llama3_2_1b")


@pytest.fixture(scope="module")
def too_big():
    return build_plan("model=llama3_8b", "method.r=64", gpu=24)


@pytest.fixture(scope="module")
def ways(too_big):
    return find_alternatives(too_big)


def test_every_alternative_fits_when_it_is_planned_itself(ways):
    assert len(ways) >= 2
    for way in ways:
        other = build_plan("model=llama3_8b", "method.r=64", *way.overrides, gpu=24)
        assert other.fits
        assert other.memory.required == way.total


def test_a_smaller_micro_batch_keeps_the_batch(too_big, ways):
    first = dict(word.split("=") for word in ways[0].overrides)
    rows, steps = (first[f"trainer.{key}"] for key in ("batch_size", "gradient_accumulation_steps"))
    assert int(rows) * int(steps) == too_big.meta_run.trainer.batch_size == 16


def test_the_message_says_what_is_needed_what_there_is_and_what_fits(too_big, ways):
    error = explain_misfit(too_big, ways)
    assert f"needs about {too_big.memory.total / 1e9:.1f} GB, a GPU of 24 GB has 24.0" in error.what
    assert "activations" in error.what and "weights 5.7" in error.what
    assert str(ways[0]) in error.fix and str(ways[1]) in error.fix
    assert error.fix.splitlines()[-1].strip() == format_command(too_big, ways[0])


def test_the_command_is_the_job_with_what_fits(too_big, ways):
    way = ways[0]
    words = format_command(too_big, way).split()
    assert words[:2] == ["ftcli", "train"] and "model=llama3_8b" in words
    assert words[-len(way.overrides) :] == list(way.overrides)


def test_full_finetuning_is_offered_lora_and_a_quantised_base():
    job_plan = build_plan(*FULL, "trainer.batch_size=1", gpu=6)
    assert not job_plan.fits
    offered = [" ".join(way.overrides) for way in find_alternatives(job_plan)]
    assert any("method=lora" in words for words in offered)


def test_what_the_job_has_already_is_not_offered():
    job_plan = build_plan("model=llama3_8b", "trainer.gradient_checkpointing=true", "data.max_length=8192",
                gpu=20)  # fmt: skip
    assert not job_plan.fits
    words = [word for way in find_alternatives(job_plan) for word in way.overrides]
    assert "trainer.gradient_checkpointing=true" not in words
    assert "model.quantization=nf4" not in words and "method=lora" not in words


def test_where_nothing_helps_it_says_so():
    job_plan = build_plan("model=llama1_65b", "trainer.batch_size=1", gpu=24)
    assert find_alternatives(job_plan) == []
    assert "smaller model" in explain_misfit(job_plan, []).fix


def test_a_job_that_fits_has_no_message():
    assert explain_misfit(build_plan("data.limit=50", gpu=24), []) is None


def test_a_plan_for_a_gpu_takes_auto_precision_as_bf16():
    assert build_plan("trainer.precision=auto", gpu=24).meta_run.trainer.precision == "bf16"
    assert build_plan("trainer.precision=fp32", gpu=24).meta_run.trainer.precision == "fp32"
