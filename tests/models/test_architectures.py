"""The shipped architectures have the published number of parameters (meta device, no weights)."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM

import ftcli

FOLDER = Path(ftcli.__file__).parent / "assets" / "architectures"
PUBLISHED = {
    "qwen3_32b": 32_762_123_264,
    "llama3_8b": 8_030_261_248,
    "llama3_2_1b": 1_235_814_400,
    "llama2_7b": 6_738_415_616,
    "llama2_70b": 68_976_648_192,
    "llama1_7b": 6_738_415_616,
    "llama1_13b": 13_015_864_320,
    "llama1_33b": 32_528_943_616,
    "llama1_65b": 65_285_660_672,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_7b": 7_615_616_512,
    "qwen3_0_6b": 596_049_920,
    "qwen3_8b": 8_190_735_360,
    "mistral_7b": 7_248_023_552,
    "gemma2_2b": 2_614_341_888,
    "tinyllama": 1_100_048_384,
    "smollm2_135m": 134_515_008,
    "phi4_mini": 3_836_021_760,
    "opt_13b": 12_853_473_280,
    "open_llama_3b": 3_426_473_600,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameter_count_is_the_published_one(name):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(FOLDER / name))
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "labels", "count"), [("vit_b16", 1000, 86_567_656), ("ast_base", 527, 86_594_063)]
)
def test_classifiers_too(name, labels, count):
    from ftcli.config import build, compose

    job = compose("bases/vit_fashion", [f"model={name}", f"model.labels={labels}"])
    model = build(
        {k: v for k, v in job.config["model"].items() if k != "weights"}
    ).build_meta_model()
    assert sum(p.numel() for p in model.parameters()) == count


def test_every_language_model_has_a_model_config_that_names_it():
    for folder in FOLDER.iterdir():
        file = folder / "config.json"
        if not file.exists() or "CausalLM" not in file.read_text():
            continue
        node = OmegaConf.load(FOLDER.parents[2] / "configs" / "model" / f"{folder.name}.yaml")
        assert node.architecture == folder.name and node.dtype == "bfloat16"
        assert folder.name in PUBLISHED
