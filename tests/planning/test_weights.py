"""Figures of papers and model cards, from configurations alone (meta device, no weights)."""

import pytest

from ftcli.planning.weights import count_weights
from tests.planning.jobs import build_job, build_plan

#: model -> parameters, weights of the blocks' linears, LoRA of rank 64 on all of them
#: (QLoRA, arXiv 2305.14314, and the models' own cards).
FIGURES = {
    "llama3_8b": (8_030_261_248, 6_979_321_856, 167_772_160),
    "llama2_7b": (6_738_415_616, 6_476_005_376, 159_907_840),
    "llama1_7b": (6_738_415_616, 6_476_005_376, 159_907_840),
    "llama1_13b": (13_015_864_320, 12_687_769_600, 250_347_520),
    "llama1_33b": (32_528_943_616, 32_102_154_240, 487_587_840),
    "llama1_65b": (65_285_660_672, 64_760_053_760, 799_539_200),
}


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_of_qlora_at_paper_scale(name):
    parameters, quantised, trainable = FIGURES[name]
    weights = count_weights(build_job(f"model={name}", "method.r=64").model, "nf4")
    assert weights.parameters == parameters
    assert weights.quantised_parameters == quantised
    assert weights.trainable == weights.adapter_parameters == trainable
    assert weights.bits == pytest.approx(4.127, abs=5e-4)


@pytest.mark.parametrize("name", ["llama1_7b", "llama2_7b"])
def test_bytes_of_a_quantised_llama_7b(name):
    weights = count_weights(build_job(f"model={name}").model, "nf4")
    assert round(weights.quantised / 1e9, 2) == 3.34
    assert round(weights.base / 1e9, 2) == 3.87


def test_without_double_quantisation_a_weight_takes_four_and_a_half_bits():
    model = build_job("model=llama2_7b").model
    assert count_weights(model, "nf4", double_quant=False).bits == pytest.approx(4.5, abs=5e-4)
    assert count_weights(model).base == 2 * 6_738_415_616


def test_the_largest_llama_trains_on_one_gpu_of_48_gb_with_paged_optimizer_state():
    plan = build_plan(
        "model=llama1_65b", "method.r=64", "data.max_length=528", "optimizer=paged_adamw",
        "trainer.batch_size=1", "trainer.gradient_accumulation_steps=16",
        "trainer.gradient_checkpointing=true", "trainer.precision=bf16", gpu=48,
    )  # fmt: skip
    assert plan.fits
    assert plan.memory.pageable == 8 * 799_539_200
    assert plan.memory.required > 36e9


def test_full_finetuning_of_the_largest_llama_needs_far_more_than_780_gb():
    plan = build_plan(
        "model=llama1_65b", "method=full", "model.quantization=none",
        "model.dtype=float32", "trainer.batch_size=1", gpu=48,
    )  # fmt: skip
    assert plan.memory.total > 780e9
    assert not plan.fits
