"""A tied model whose head or table of tokens has an adapter merges to what was trained."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ftcli.deltas.merge import merge_run
from ftcli.models.hub import resolve

IDS = torch.arange(3, 83)[None]
CASES = {
    "head": ("method.target_modules=[lm_head,q_proj]", True),
    "table": ("method.target_modules=[embed_tokens,q_proj]", True),
    "both": ("method.target_modules=[lm_head,embed_tokens]", True),
    "kept_tied": ("method.target_modules=[embed_tokens] +method.ensure_weight_tying=true", False),
    "copied": ("method.target_modules=[q_proj] +method.modules_to_save=[lm_head]", True),
    "tokens": ("method.target_modules=[q_proj] +method.trainable_token_indices=[5,6,7]", False),
    "neither": ("method.target_modules=[q_proj]", False),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_the_folder_computes_what_plain_peft_computes(train_tiny, tmp_path, case, dtype):
    options, apart = CASES[case]
    if case == "kept_tied" and dtype == "bfloat16":
        options += " method.autocast_adapter_dtype=false"
    run = train_tiny(
        f"run.name=tied_{case}", "method=lora", "model.quantization=none", "eval=none",
        "optimizer.lr=0.03", f"model.dtype={dtype}", *options.split(),
    )  # fmt: skip
    report = merge_run(run, tmp_path / "merged")
    assert report.checked_dtype == "float32" and report.max_difference <= report.tolerance

    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    names = load_file(tmp_path / "merged" / "model.safetensors").keys()
    assert config["tie_word_embeddings"] is not apart
    assert ("lm_head.weight" in names) == apart

    base = AutoModelForCausalLM.from_pretrained(resolve("asset:llama_mini"), dtype=torch.float32)
    with torch.no_grad():
        before = base(IDS).logits
        trained = peft.PeftModel.from_pretrained(base, run / "adapter").eval()(IDS).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
        after = merged(IDS).logits
    assert (before - trained).abs().max() > 0.1  # it learned something that merging could lose
    share = 1e-4 if dtype == "float32" else 4e-2
    assert (after - trained).abs().max() <= share * trained.abs().max()


def test_a_merge_that_is_wrong_is_refused_though_bf16_would_hide_it(
    train_tiny, tmp_path, monkeypatch
):
    """Without copies of the tied matrix the table changes with the head, by less than bf16's rounding."""
    from ftcli.core.errors import UserError

    run = train_tiny(
        "run.name=tied_wrong", "method=lora", "model.quantization=none", "eval=none",
        "model.dtype=bfloat16", "method.target_modules=[lm_head]",
    )  # fmt: skip
    monkeypatch.setattr("ftcli.deltas.tied.untie_adapted", lambda model: None)
    with pytest.raises(UserError, match="begin to differ at the token embeddings") as caught:
        merge_run(run, tmp_path / "merged")
    assert "tolerance" not in caught.value.fix and not (tmp_path / "merged").exists()


def test_tied_adapters_that_would_be_parted_are_refused_beforehand(work, capsys):
    from ftcli.cli.app import run

    job = ["qlora_mini", "method=lora", "model.quantization=none", "model.dtype=bfloat16",
           "method.target_modules=[embed_tokens]", "+method.ensure_weight_tying=true",
           "data.limit=32", "~eval"]  # fmt: skip
    for verb in ("check", "train"):
        assert run([verb, *job]) == 2
        assert "PEFT separates tied adapters" in " ".join("".join(capsys.readouterr()).split())
