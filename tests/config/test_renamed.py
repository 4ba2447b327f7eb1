"""Configurations of version 0.1.0, which name moved classes, are read with their present names."""

from __future__ import annotations

import importlib

from ftcli.config import compose, load
from ftcli.config.renamed import MODULES, replace_old_names


def test_every_module_is_gone_and_its_successor_is_there():
    for old, new in MODULES.items():
        assert importlib.util.find_spec(new) is not None
        parent = old.rpartition(".")[0]
        assert importlib.util.find_spec(parent) is None or importlib.util.find_spec(old) is None


def test_names_are_replaced_at_any_depth_and_nothing_else():
    config = {
        "method": {"_target_": "ftcli.methods.qst.Qst", "reduction": 4},
        "penalty": {
            "density": {"_target_": "ftcli.penalties.activation_density.ActivationDensity"}
        },
        "optimizer": {"optimizer_class": "ftcli.optimizers.adamr.AdamR"},
        "objective": {"_target_": "ftcli.objectives.causal_lm.CausalLM"},
        "data": {"path": "ftcli.methods.qst", "columns": ["ftcli.methods.qst.Qst"]},
    }
    current = replace_old_names(config)
    assert current["method"] == {"_target_": "ftcli.papers.qst.method.Qst", "reduction": 4}
    assert (
        current["penalty"]["density"]["_target_"] == "ftcli.papers.deft.penalty.ActivationDensity"
    )
    assert current["optimizer"]["optimizer_class"] == "ftcli.papers.darex.optimizer.AdamR"
    assert current["objective"]["_target_"] == "ftcli.objectives.causal_lm.NextTokenPrediction"
    assert current["data"]["path"] == "ftcli.methods.qst"


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
