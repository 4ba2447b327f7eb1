"""Classes of version 0.1.0 that stand elsewhere now, so that its run directories still open."""

from __future__ import annotations

from typing import Any

#: Module of 0.1.0 -> where its classes are now.
MODULES = {
    "ftcli.papers.deft.evaluation": "ftcli.papers.deft.evaluation",
    "ftcli.papers.ba_lora.evaluation": "ftcli.papers.ba_lora.evaluation",
    "ftcli.papers.styleid.distances": "ftcli.papers.styleid.distances",
    "ftcli.papers.styleid.evaluation": "ftcli.papers.styleid.evaluation",
    "ftcli.papers.corda.method": "ftcli.papers.corda.method",
    "ftcli.papers.corda.covariances": "ftcli.papers.corda.covariances",
    "ftcli.papers.sara.gathered": "ftcli.papers.sara.gathered",
    "ftcli.papers.lora_ga.method": "ftcli.papers.lora_ga.method",
    "ftcli.papers.qst.method": "ftcli.papers.qst.method",
    "ftcli.papers.sara.method": "ftcli.papers.sara.method",
    "ftcli.papers.ist.scaling": "ftcli.papers.ist.scaling",
    "ftcli.papers.qst.side": "ftcli.papers.qst.side",
    "ftcli.papers.qst.states": "ftcli.papers.qst.states",
    "ftcli.papers.qst.trace": "ftcli.papers.qst.trace",
    "ftcli.papers.qst.tuner": "ftcli.papers.qst.tuner",
    "ftcli.papers.qst.side_model": "ftcli.papers.qst.side_model",
    "ftcli.papers.spiel.method": "ftcli.papers.spiel.method",
    "ftcli.papers.flora.method": "ftcli.papers.flora.method",
    "ftcli.papers.loldu.method": "ftcli.papers.loldu.method",
    "ftcli.papers.peqa.method": "ftcli.papers.peqa.method",
    "ftcli.papers.s2ft.method": "ftcli.papers.s2ft.method",
    "ftcli.papers.s2ft.selection": "ftcli.papers.s2ft.selection",
    "ftcli.papers.spiel.tuner": "ftcli.papers.spiel.tuner",
    "ftcli.papers.ssf.method": "ftcli.papers.ssf.method",
    "ftcli.papers.ssf.layers": "ftcli.papers.ssf.layers",
    "ftcli.papers.petl_ast.adapter": "ftcli.papers.petl_ast.adapter",
    "ftcli.papers.petl_ast.blocks": "ftcli.papers.petl_ast.blocks",
    "ftcli.papers.petl_ast.token_prompts": "ftcli.papers.petl_ast.token_prompts",
    "ftcli.papers.darex.optimizer": "ftcli.papers.darex.optimizer",
    "ftcli.papers.natural_galore.optimizer": "ftcli.papers.natural_galore.optimizer",
    "ftcli.papers.fedkseed.optimizer": "ftcli.papers.fedkseed.optimizer",
    "ftcli.papers.natural_galore.projection": "ftcli.papers.natural_galore.projection",
    "ftcli.papers.deft.penalty": "ftcli.papers.deft.penalty",
    "ftcli.papers.ba_lora.consistency": "ftcli.papers.ba_lora.consistency",
    "ftcli.papers.ba_lora.diversity": "ftcli.papers.ba_lora.diversity",
    "ftcli.papers.sara.penalty": "ftcli.papers.sara.penalty",
    "ftcli.papers.ba_lora.outputs": "ftcli.papers.ba_lora.outputs",
    "ftcli.papers.ba_lora.spectrum": "ftcli.papers.ba_lora.spectrum",
    "ftcli.papers.fedkseed.pipeline": "ftcli.papers.fedkseed.pipeline",
    "ftcli.papers.ist.trainable": "ftcli.papers.ist.trainable",
    "ftcli.papers.lift.trainable": "ftcli.papers.lift.trainable",
    "ftcli.papers.lisa.trainable": "ftcli.papers.lisa.trainable",
    "ftcli.papers.ist.random": "ftcli.papers.ist.random",
}


def with_current_names(value: Any) -> Any:
    """A resolved configuration in which every class of `MODULES` has its present name."""
    if isinstance(value, dict):
        return {key: with_current_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_current_names(item) for item in value]
    if not isinstance(value, str):
        return value
    module, _, name = value.rpartition(".")
    return f"{MODULES[module]}.{name}" if module in MODULES else value
