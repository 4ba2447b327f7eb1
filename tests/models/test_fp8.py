"""FP8 in blocks: dequantised while it is loaded, trained, and refused alike by check and train where that goes wrong."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

from ftcli.cli.app import run
from ftcli.core.errors import UserError
from ftcli.deltas.merge import merge_run
from ftcli.models import causal_lm
from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.decoding import evaluation_mode
from ftcli.models.fp8 import refuse_cut_blocks
from ftcli.models.hub import resolve
from ftcli.models.weight_files import find_weight_files
from ftcli.run.build import open_run

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU multiplies in FP8")
LARGEST = 448  # of float8_e4m3fn


def quantise(weight: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight in FP8, its scales a block, by the definition of DeepSeek-V3 (arXiv 2412.19437, 3.3.2)."""
    rows, columns = (-(-size // block) for size in weight.shape)
    whole = torch.zeros(rows * block, columns * block)
    whole[: weight.shape[0], : weight.shape[1]] = weight
    blocks = whole.view(rows, block, columns, block)
    scales = blocks.abs().amax((1, 3)) / LARGEST
    stored = (blocks / scales[:, None, :, None]).view_as(whole)
    return stored[: weight.shape[0], : weight.shape[1]].contiguous().to(torch.float8_e4m3fn), scales


def dequantise(stored: torch.Tensor, scales: torch.Tensor, block: int) -> torch.Tensor:
    spread = scales.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return stored.float() * spread[: stored.shape[0], : stored.shape[1]]


def write(folder: Path, block: int) -> Path:
    """Write the shipped Llama with the linears of its blocks in FP8; its widths are multiples of 64."""
    shutil.copytree(resolve("asset:llama_mini"), folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        tensors[name], tensors[f"{name}_scale_inv"] = quantise(tensors[name].float(), block)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [block, block],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_whole_blocks_are_dequantised_to_what_they_mean(tmp_path):
    folder = write(tmp_path / "model", 64)
    source = CausalLMSource(str(folder))
    assert source.check_files() == "130 tensors, stored quantised (fp8)"
    parameters = dict(source.load("cpu").named_parameters())
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.3.mlp.down_proj.weight"
    expected = dequantise(tensors[name], tensors[f"{name}_scale_inv"], 64)
    torch.testing.assert_close(parameters[name].data, expected, rtol=0, atol=0)


@pytest.mark.slow
def test_a_lora_on_whole_blocks_trains_and_is_merged_into_plain_weights(tmp_path, train_tiny):
    """Every step sees the same eight rows, so that the loss of the last says whether it learned them."""
    folder = write(tmp_path / "model", 64)
    path = train_tiny(
        f"model.path={folder}", "method=lora", "method.r=4", "model.quantization=none", "eval=none",
        "data.limit=8", "data.validation=null", "trainer.max_steps=24",
    )  # fmt: skip
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 24 and losses[-1] < losses[0]

    merge_run(path, tmp_path / "merged")
    assert "quantization_config" not in (tmp_path / "merged" / "config.json").read_text()
    merged, ids = AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), torch.arange(3, 43)
    with evaluation_mode(open_run(path)) as model:
        expected, logits = model(input_ids=ids[None]).logits, merged(input_ids=ids[None]).logits
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("verb", ["check", "train"])
def test_blocks_that_are_cut_off_are_refused_before_loading(work, capsys, verb):
    """704 rows are five and a half blocks of 128."""
    folder = write(work / "model", 128)
    job = ["qlora_mini", f"model.path={folder}", "method=lora", "model.quantization=none"]
    assert run([verb, *job, "data.limit=32", "~eval"]) == 2
    output = " ".join("".join(capsys.readouterr()).split())
    assert (
        "mlp.down_proj.weight of 256 x 704 does not consist of whole blocks of 128 x 128" in output
    )
    assert "model.path=the checkpoint before it was quantised" in output and "report" not in output


def test_cut_blocks_are_refused_in_files_that_were_not_there_before_loading(tmp_path, monkeypatch):
    """Blocks of 200 leave no remainder: 256 rows become two of 128, and transformers loads them."""
    folder = write(tmp_path / "model", 200)
    first = iter([None])
    monkeypatch.setattr(
        causal_lm, "find_weight_files", lambda *place: next(first, find_weight_files(*place))
    )
    with pytest.raises(UserError, match="whole blocks of 200 x 200"):
        CausalLMSource(str(folder)).load("cpu")


@pytest.mark.parametrize(
    ("rows", "scales", "whole"),
    [
        (256, 2, True),
        (64, 1, True),  # one block
        (192, 2, False),  # transformers divides it into 96 and 96 instead of 128 and 64
        (576, 5, False),  # DeepSeek-V3's kv_a_proj_with_mqa, at which transformers fails
    ],
)
@pytest.mark.parametrize("dequantize", [True, False])
def test_weights_of_equal_parts_only(rows, scales, whole, dequantize):
    options = FineGrainedFP8Config(weight_block_size=(128, 128), dequantize=dequantize)
    shapes = {"a.weight": (rows, 128), "a.weight_scale_inv": (scales, 1), "norm.weight": (rows,)}
    expected = nullcontext()
    if dequantize and not whole:
        expected = pytest.raises(UserError, match=f"a.weight of {rows} x 128")
    with expected:
        refuse_cut_blocks("a", options, shapes)
