"""Configurations of version 0.1.0, which name moved classes, are read with their present names."""

from __future__ import annotations

import importlib

import pytest
import yaml

from ftcli.config import compose, load, validate_and_convert
from ftcli.config.renamed import CLASSES, KEYS, MODULES, replace_old_names, update_old_config
from ftcli.config.signature import read_signature
from ftcli.core.errors import UserError


def test_every_module_is_gone_and_its_successor_is_there():
    for old, new in MODULES.items():
        assert importlib.util.find_spec(new) is not None
        parent = old.rpartition(".")[0]
        assert importlib.util.find_spec(parent) is None or importlib.util.find_spec(old) is None


def test_every_renamed_class_is_gone_and_its_successor_is_there():
    for old, new in CLASSES.items():
        module, _, name = new.rpartition(".")
        assert hasattr(importlib.import_module(module), name)
        assert not hasattr(importlib.import_module(module), old.rpartition(".")[2])


def test_names_are_replaced_at_any_depth_and_nothing_else():
    config = {
        "method": {"_target_": "ftcli.methods.qst.Qst", "reduction": 4},
        "penalty": {
            "density": {"_target_": "ftcli.penalties.activation_density.ActivationDensity"}
        },
        "optimizer": {"optimizer_class": "ftcli.optimizers.adamr.AdamR"},
        "objective": {"_target_": "ftcli.objectives.causal_lm.CausalLM"},
        "model": {"_target_": "ftcli.models.causal_lm.CausalLM", "path": "asset:llama_mini"},
        "data": {"path": "ftcli.methods.qst", "columns": ["ftcli.methods.qst.Qst"]},
    }
    current = replace_old_names(config)
    assert current["method"] == {"_target_": "ftcli.papers.qst.method.Qst", "reduction": 4}
    assert (
        current["penalty"]["density"]["_target_"] == "ftcli.papers.deft.penalty.ActivationDensity"
    )
    assert current["optimizer"]["optimizer_class"] == "ftcli.papers.darex.optimizer.AdamR"
    assert current["objective"]["_target_"] == "ftcli.objectives.causal_lm.NextTokenPrediction"
    assert current["model"]["_target_"] == "ftcli.models.causal_lm.CausalLMSource"
    assert current["data"]["path"] == "ftcli.methods.qst"


def test_every_key_is_gone_and_its_successor_is_there():
    for owner, keys in KEYS.items():
        present = read_signature(owner).parameters
        assert set(keys.values()) <= set(present) and not set(keys) & set(present), owner


def test_keys_are_replaced_in_the_nodes_of_their_class_alone():
    data = {"_target_": "ftcli.data.dataset.Data", "mask": "all", "on_lost": "warn", "total": 9}
    config = {
        "data": data,
        "method": {"_target_": "x.Y", "promises": {"models": ["llama"]}, "mask": 1, "data": data},
        "eval": {"total": 1, "promises": 2},
    }
    current = update_old_config(config)
    assert current["data"] == current["method"].pop("data") == {
        "_target_": "ftcli.data.dataset.Data", "train_on": "all",
        "on_dropped_content": "warn", "rows_per_epoch": 9,
    }  # fmt: skip
    assert current["method"] == {
        "_target_": "x.Y", "capabilities": {"models": ["llama"]}, "mask": 1,
    }  # fmt: skip
    assert current["eval"] == config["eval"]


def test_the_keys_of_an_old_run_are_read_and_an_override_wins(trained_run, tmp_path):
    old = load(trained_run).config
    old["data"] |= {"mask": "all", "total": 40}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(old))
    assert load(path).get("data.train_on") == "all" and load(path).get("data.mask") is None
    composed = compose(path, ["data.train_on=assistant"])
    validate_and_convert(composed)
    assert composed.get("data.train_on") == "assistant"
    assert composed.get("data.rows_per_epoch") == 40


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("data.mask=all", "data.train_on=all"),
        ("data.on_lost=warn", "data.on_dropped_content=warn"),
        ("data.total=9", "data.rows_per_epoch=9"),
    ],
)
def test_an_old_key_in_a_job_is_an_error_that_names_the_new_one(old, new):
    with pytest.raises(UserError) as caught:
        validate_and_convert(compose("qlora_mini", [old]))
    assert caught.value.fix == new


def test_the_config_of_an_old_run_is_read_with_the_present_names(trained_run, tmp_path):
    old = (
        (trained_run / "config.yaml")
        .read_text()
        .replace("ftcli.optimizers.library.LibraryOptimizer", "ftcli.optimizers.kseed.KSeed")
    )
    path = tmp_path / "config.yaml"
    path.write_text(old)
    assert load(path).config["optimizer"]["_target_"] == "ftcli.papers.fedkseed.optimizer.KSeed"
    composed = compose(path, ["trainer.max_steps=5"])  # as `resume RUN trainer.max_steps=5` does
    assert composed.config["optimizer"]["_target_"] == "ftcli.papers.fedkseed.optimizer.KSeed"
