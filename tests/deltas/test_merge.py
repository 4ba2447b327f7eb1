"""A merged model computes what was trained, is plain, and is written whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcli.core.errors import UserError
from ftcli.core.run import Run
from ftcli.deltas.agreement import choose_rounding_tolerance
from ftcli.deltas.merge import _require_weights, merge_run
from ftcli.models.decoding import evaluation_mode, generate_answers
from ftcli.run.build import open_run

TEXT = "name[The Mill], eatType[pub], food[French]\n"


@pytest.fixture(scope="module")
def nf4(trained_run, tmp_path_factory):
    target = tmp_path_factory.mktemp("merged") / "nf4"
    return merge_run(trained_run, target), Path(target)


@pytest.fixture(scope="module")
def plain_run(train_tiny):
    """Plain float32 weights; eval is none, so that this takes no time."""
    return train_tiny("run.name=plain", "model.quantization=none", "method=lora", "eval=none")


def compare(run: Run, folder: Path) -> tuple[float, float]:
    """Largest difference of a logit between the run's model and the folder's, and largest logit."""
    merged = AutoModelForCausalLM.from_pretrained(folder)
    ids = run.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with evaluation_mode(run) as model:
        ours, theirs = model(input_ids=ids).logits, merged(input_ids=ids).logits
    return (ours - theirs).abs().max().item(), ours.abs().max().item()


def test_a_dequantised_merge_computes_what_was_trained_on_the_quantised_base(nf4, trained_run):
    report, folder = nf4
    run = open_run(trained_run)
    difference, largest = compare(run, folder)
    assert difference <= 1e-4 * largest
    assert report.same_choice == 1 and report.max_difference <= report.tolerance
    names = load_file(folder / "model.safetensors").keys()
    assert not [name for name in names if "lora" in name or "quant" in name or "absmax" in name]


def test_plain_transformers_writes_the_same_text_from_the_folder(nf4, trained_run):
    run = open_run(trained_run)
    tokenizer = AutoTokenizer.from_pretrained(nf4[1])
    merged = AutoModelForCausalLM.from_pretrained(nf4[1])
    ids = tokenizer(TEXT)["input_ids"]
    with torch.no_grad():
        theirs = generate_answers(merged, tokenizer, [ids], max_new_tokens=16)
    with evaluation_mode(run) as model:
        assert (
            generate_answers(model, run.tokenizer, [ids], max_new_tokens=16) == theirs and theirs[0]
        )


def test_the_merge_is_not_the_base(nf4):
    base = load_file("ftcli/assets/models/llama_mini/model.safetensors")
    merged = load_file(nf4[1] / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(base[name].float(), merged[name], atol=1e-3)


def test_a_plain_base_merges_within_rounding(plain_run, tmp_path):
    merge_run(plain_run, tmp_path / "plain")
    difference, largest = compare(open_run(plain_run), tmp_path / "plain")
    assert difference <= 1e-4 * largest


def test_a_fully_finetuned_model_is_written_as_it_was_trained(train_tiny, tmp_path):
    path = train_tiny(
        "run.name=full", "model.quantization=none", "eval=none",
        "method=full",
    )  # fmt: skip
    report = merge_run(path, tmp_path / "full")
    assert report.max_difference == 0
    assert compare(open_run(path), tmp_path / "full")[0] == 0
    assert (path / "model" / "model.safetensors").exists()


def test_a_folder_with_content_is_left_alone(trained_run, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        merge_run(trained_run, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_merge_that_differs_too_much_writes_nothing(plain_run, tmp_path):
    with pytest.raises(UserError, match="is not the trained one"):
        merge_run(plain_run, tmp_path / "merged", tolerance=0.0)
    assert list(tmp_path.iterdir()) == []


def test_rows_out_of_reach_are_no_obstacle(plain_run, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(plain_run, moved, symlinks=True)
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace("asset:e2e", "gone.jsonl"))
    assert merge_run(moved, tmp_path / "merged").rows == 8


def test_a_soft_prompt_is_no_change_of_weights(train_tiny, tmp_path):
    path = train_tiny(
        "run.name=prompt", "method=prompt_tuning", "eval=none",
        "data.packing=none",
    )  # fmt: skip
    with pytest.raises(UserError, match="no change of weights"):
        merge_run(path, tmp_path / "merged")


def test_half_precision_is_merged_within_its_own_rounding(train_tiny, tmp_path):
    path = train_tiny(
        "run.name=half", "eval=none", "model.dtype=bfloat16", "trainer.precision=bf16"
    )
    report = merge_run(path, tmp_path / "half")
    assert 0 < report.max_difference <= report.tolerance and report.same_choice > 0.9
    weights = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_coarser_types_are_allowed_more_rounding(trained_run):
    model = open_run(trained_run).model
    assert choose_rounding_tolerance(model) == 1e-4
    model.config.quantization_config.bnb_4bit_compute_dtype = torch.bfloat16
    assert choose_rounding_tolerance(model) == 4e-2


def test_layers_that_dequantising_leaves_without_weights_are_named():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    _require_weights(model)
    del model[1].weight
    with pytest.raises(ValueError, match="leaves 1 layers without weights, as 1"):
        _require_weights(model)
