"""Names of version 0.1.0 that have changed, so that its run directories still load."""

from __future__ import annotations

from typing import Any

#: Module of 0.1.0 -> module that defines its classes now.
MODULES = {
    "ftcli.evaluation.activation_density": "ftcli.papers.deft.evaluation",
    "ftcli.evaluation.outputs": "ftcli.papers.ba_lora.evaluation",
    "ftcli.evaluation.style_distances": "ftcli.papers.styleid.distances",
    "ftcli.evaluation.style_transfer": "ftcli.papers.styleid.evaluation",
    "ftcli.methods.corda": "ftcli.papers.corda.method",
    "ftcli.methods.covariances": "ftcli.papers.corda.covariances",
    "ftcli.methods.gathered": "ftcli.papers.sara.entries",
    "ftcli.methods.lora_ga": "ftcli.papers.lora_ga.method",
    "ftcli.methods.qst": "ftcli.papers.qst.method",
    "ftcli.methods.sara": "ftcli.papers.sara.method",
    "ftcli.methods.scaling": "ftcli.papers.ist.scaling",
    "ftcli.methods.side": "ftcli.papers.qst.side",
    "ftcli.methods.side_states": "ftcli.papers.qst.states",
    "ftcli.methods.side_trace": "ftcli.papers.qst.trace",
    "ftcli.methods.side_tuner": "ftcli.papers.qst.tuner",
    "ftcli.methods.side_twin": "ftcli.papers.qst.side_model",
    "ftcli.methods.spiel": "ftcli.papers.spiel.method",
    "ftcli.methods.tuners.flora": "ftcli.papers.flora.method",
    "ftcli.methods.tuners.loldu": "ftcli.papers.loldu.method",
    "ftcli.methods.tuners.peqa": "ftcli.papers.peqa.method",
    "ftcli.methods.tuners.s2ft": "ftcli.papers.s2ft.method",
    "ftcli.methods.tuners.s2ft_selection": "ftcli.papers.s2ft.selection",
    "ftcli.methods.tuners.spiel": "ftcli.papers.spiel.tuner",
    "ftcli.methods.tuners.ssf": "ftcli.papers.ssf.method",
    "ftcli.methods.tuners.ssf_layers": "ftcli.papers.ssf.layers",
    "ftcli.methods.tuners.sublayer": "ftcli.papers.petl_ast.adapter",
    "ftcli.methods.tuners.sublayer_blocks": "ftcli.papers.petl_ast.blocks",
    "ftcli.methods.tuners.token_prompts": "ftcli.papers.petl_ast.token_prompts",
    "ftcli.optimizers.adamr": "ftcli.papers.darex.optimizer",
    "ftcli.optimizers.galore": "ftcli.papers.natural_galore.optimizer",
    "ftcli.optimizers.kseed": "ftcli.papers.fedkseed.optimizer",
    "ftcli.optimizers.projection": "ftcli.papers.natural_galore.projection",
    "ftcli.penalties.activation_density": "ftcli.papers.deft.penalty",
    "ftcli.penalties.consistency": "ftcli.papers.ba_lora.consistency",
    "ftcli.penalties.diversity": "ftcli.papers.ba_lora.diversity",
    "ftcli.penalties.nuclear": "ftcli.papers.sara.penalty",
    "ftcli.penalties.outputs": "ftcli.papers.ba_lora.outputs",
    "ftcli.penalties.spectrum": "ftcli.papers.ba_lora.spectrum",
    "ftcli.pipelines.federated.fedkseed": "ftcli.papers.fedkseed.pipeline",
    "ftcli.trainable.ist": "ftcli.papers.ist.trainable",
    "ftcli.trainable.lift": "ftcli.papers.lift.trainable",
    "ftcli.trainable.lisa": "ftcli.papers.lisa.trainable",
    "ftcli.trainable.rst": "ftcli.papers.ist.random",
}

#: Class of 0.1.0 -> its name now, where the module has stayed.
CLASSES = {
    "ftcli.models.causal_lm.CausalLM": "ftcli.models.causal_lm.CausalLMSource",
    "ftcli.models.classifier.Classifier": "ftcli.models.classifier.ClassifierSource",
    "ftcli.models.ldm.Ldm": "ftcli.models.ldm.LdmSource",
    "ftcli.objectives.causal_lm.CausalLM": "ftcli.objectives.causal_lm.NextTokenPrediction",
    "ftcli.papers.longlora.model.ShortGroupsLM": "ftcli.papers.longlora.model.ShortGroupsSource",
}

DATA_KEYS = {
    "mask": "train_on", "on_lost": "on_dropped_content", "total": "rows_per_epoch",
}  # fmt: skip
#: Class -> the keys of its nodes in 0.1.0 that have changed -> their names now.
KEYS = {
    "ftcli.data.dataset.Data": DATA_KEYS,
    "ftcli.papers.longlora.data.JoinedText": DATA_KEYS,
}
#: Keys of every node with `_target_` in 0.1.0 that have changed -> their names now.
NODE_KEYS = {"promises": "capabilities"}


def update_old_config(config: dict[str, Any]) -> dict[str, Any]:
    """Replace the old names of classes and keys in the resolved configuration of a run, at any depth."""
    return dict(_replace_old_keys(replace_old_names(config)))


def replace_old_names(value: Any) -> Any:
    """Replace the old names of classes in a configuration, at any depth."""
    if isinstance(value, dict):
        return {key: replace_old_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_old_names(item) for item in value]
    if not isinstance(value, str):
        return value
    if value in CLASSES:
        return CLASSES[value]
    module, _, name = value.rpartition(".")
    return f"{MODULES[module]}.{name}" if module in MODULES else value


def _replace_old_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [_replace_old_keys(item) for item in value]
    if not isinstance(value, dict):
        return value
    keys = KEYS.get(str(value["_target_"]), {}) | NODE_KEYS if "_target_" in value else {}
    return {keys.get(key, key): _replace_old_keys(item) for key, item in value.items()}
