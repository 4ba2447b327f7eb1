"""Files of a run name its base by its public id, and the Hub accepts the card."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import peft
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from transformers import AutoModelForCausalLM

import ftcli
from ftcli.deltas.artefact import Artefact
from ftcli.deltas.merge import merge_run
from ftcli.models.hub import published_name, resolve

PACKAGE = str(Path(ftcli.__file__).parent)


def test_no_file_beside_the_weights_names_a_place_of_this_machine(trained_run):
    for folder in (trained_run / "adapter", trained_run / "checkpoints" / "last"):
        for file in folder.iterdir():
            assert PACKAGE.encode() not in file.read_bytes(), file
    config = json.loads((trained_run / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "ftcli/llama_mini"


def test_the_name_of_a_shipped_model_opens_it(trained_run):
    assert resolve("ftcli/llama_mini") == resolve("asset:llama_mini")
    assert Artefact.open(trained_run / "adapter").base.folder == Path(resolve("asset:llama_mini"))


@pytest.mark.parametrize(
    ("path", "name"), [("asset:llama_mini", "ftcli/llama_mini"), ("ftcli/llama_mini",) * 2,
                       ("owner/name", "owner/name"), (str(Path(PACKAGE)), None)],
)  # fmt: skip
def test_published_names(path, name):
    assert published_name(path) == name


def test_the_card_is_one_that_the_hub_takes(trained_run, tmp_path):
    card = ModelCard.load(trained_run / "adapter" / "README.md")
    validate_repo_id(card.data.base_model)
    assert card.data.base_model == "ftcli/llama_mini" and card.data.library_name == "peft"
    assert card.data.license == "apache-2.0" and card.data.tags == ["ftcli"]
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert "bleu" in card.data.metrics and "ftcli train" in card.text
    assert "PeftModel.from_pretrained" in card.text
    merge_run(trained_run, tmp_path / "merged")
    merged = ModelCard.load(tmp_path / "merged" / "README.md").data
    assert merged.library_name == "transformers" and merged.base_model == "ftcli/llama_mini"


def test_plain_peft_loads_the_folder(trained_run):
    base = AutoModelForCausalLM.from_pretrained(resolve("asset:llama_mini"), dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, trained_run / "adapter")
    assert any("lora_A" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_every_file_has_the_permissions_that_the_umask_gives(train_tiny, tmp_path, mask):
    before = os.umask(mask)
    try:
        run = train_tiny(f"run.name=umask_{mask}", "method=lora", "model.quantization=none",
                         f"data.cache_dir={tmp_path}/cache", "eval=loss")  # fmt: skip
        merge_run(run, tmp_path / "merged")
    finally:
        os.umask(before)
    for root in (run, tmp_path / "merged", tmp_path / "cache"):
        for path in [root, *root.rglob("*")]:
            if not path.is_symlink():
                expected = (0o777 if path.is_dir() else 0o666) & ~mask
                assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(expected), path
