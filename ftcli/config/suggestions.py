"""Errors for unknown keys and classes, with the known name that was most likely meant.

Names of other programs and of earlier versions are known too: `learning_rate` is `optimizer.lr`.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.config import job, overrides, paths, signature
from ftcli.config.annotations import WrongType, convert_value
from ftcli.config.building import make_package_error
from ftcli.config.job import COMMAND_LINE, TARGET, ComposedJob, iter_leaves, read_keys
from ftcli.config.paths import find_nearest
from ftcli.config.signature import NoSuchClass, Parameter
from ftcli.config.yaml_locations import read_option
from ftcli.core.errors import UserError

#: Name of a key in other programs or earlier versions -> its name here, without the group; with it where
#: several groups have a key of that name (`data.path`).
OTHER_NAMES = {
    "rank": "r", "lora_rank": "r", "lora_r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout",
    "lora_target_modules": "target_modules", "targets": "target_modules", "lora_target": "target_modules",
    "learning_rate": "lr", "wd": "weight_decay",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "max_epochs": "epochs",
    "steps": "max_steps", "per_device_train_batch_size": "batch_size", "micro_batch_size": "batch_size",
    "micro_batch": "batch_size", "grad_accum": "gradient_accumulation_steps",
    "accumulation": "gradient_accumulation_steps", "grad_clip": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm", "bf16": "precision", "fp16": "precision",
    "logging_steps": "log_every", "eval_steps": "eval_every", "save_steps": "save_every",
    "max_seq_length": "max_length", "max_seq_len": "max_length", "sequence_len": "max_length",
    "cutoff_len": "max_length", "dataset": "data.path", "model_name_or_path": "model.path",
    "base_model": "model.path", "load_in_4bit": "quantization", "quant": "quantization",
    "torch_dtype": "dtype", "attn_implementation": "attention", "warmup": "warmup_ratio",
    "train_on_inputs": "train_on", "mask": "train_on", "on_lost": "on_dropped_content",
    "total": "rows_per_epoch", "sample_packing": "packing", "out_dir": "run.dir", "output_dir": "run.dir",
    "lr_scheduler_type": "scheduler", "lr_scheduler": "scheduler", "optim": "optimizer", "adapter": "method",
}  # fmt: skip


def find_nearest_key(word: str, known: Iterable[str]) -> str | None:
    """Return the known key that is most similar to a word, by its name here or in other programs."""
    names = set(known)
    candidates = {name: name for name in names}
    for other, key in OTHER_NAMES.items():
        if (last := key.rpartition(".")[2]) in names - {other}:
            candidates[other] = last
    matches = find_nearest(word, candidates, 1)
    return candidates[matches[0]] if matches else None


OFF_WORDS = ("none", "auto")


@dataclass(frozen=True)
class Setting:
    """A key of a job with its parameter; without a parameter, a group."""

    key: str
    parameter: Parameter | None = None

    def convert(self, name: str, value: Any) -> tuple[Any, list[str]]:
        """Return the value for this key where `name` was set to `value`, and the alternatives to it.

        `bf16: true` becomes `precision: bf16`, since the name is one of the key's literals. A boolean for
        a key of literals (`load_in_4bit: true`) becomes the first literal that means on or off.
        """
        if self.parameter is None:
            return value, []
        literals = list(_iter_words(self.parameter.type))
        if value is True and name in literals:
            return name, []
        try:
            convert_value(value, self.parameter.type)
            return value, []
        except WrongType:
            matching = [
                literal for literal in literals if (literal in OFF_WORDS) == (value is False)
            ] or literals
            chosen = matching[0] if matching else "VALUE"
            return chosen, [literal for literal in literals if literal != chosen]


def find_setting(name: str, config: Mapping[str, Any]) -> Setting | None:
    """Return the setting that a name most likely means; None where no setting is similar.

    Args:
        config: configuration of the job; of groups that it lacks, all options are searched.
    """
    settings = {setting.key: setting for setting in _iter_settings(config)}
    by_name: dict[str, Setting] = {}
    for key, setting in settings.items():
        by_name.setdefault(key.rpartition(".")[2], setting)
    for word in (name, OTHER_NAMES.get(name, name)):
        if word in settings:
            return settings[word]
        if word in by_name:
            return by_name[word]
    others = {other: key for other, key in OTHER_NAMES.items() if key in by_name or key in settings}
    near = find_nearest(name, [*by_name, *others], 1)
    if not near:
        return None
    word = near[0] if near[0] in by_name else others[near[0]]
    return by_name.get(word) or settings[word]


def _iter_settings(config: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield every setting of a job: groups and their keys by priority, then the keys outside groups."""
    for group in (
        *job.OBJECT_GROUPS[::-1],
        *(g for g in paths.list_groups() if g not in job.OBJECT_GROUPS),
    ):
        yield Setting(group)
    for group in job.OBJECT_GROUPS:
        node = config.get(group)
        nodes = [node] if isinstance(node, Mapping) and TARGET in node else _iter_options(group)
        for option_node in nodes:
            yield from (
                Setting(f"{group}.{k}", p) for k, p in _read_parameters(option_node).items()
            )
    for key, parameter in signature.read_signature(job.JOB_SETTINGS_CLASS).parameters.items():
        if parameter.nested:
            inner = signature.read_signature(parameter.nested).parameters
            yield from (Setting(f"{key}.{k}", p) for k, p in inner.items())
        else:
            yield Setting(key, parameter)


def _iter_options(group: str) -> Iterator[Mapping[str, Any]]:
    for file in paths.list_options(group).values():
        node = read_option(file)
        if isinstance(node.get(TARGET), str):
            yield node


def _read_parameters(node: Mapping[str, Any]) -> dict[str, Parameter]:
    try:
        return read_keys(node).parameters
    except NoSuchClass:
        return {}


def _iter_words(kind: Any) -> Iterator[str]:
    """Yield the literals that a type allows."""
    if typing.get_origin(kind) is typing.Literal:
        yield from (str(word) for word in typing.get_args(kind))
    else:
        for member in typing.get_args(kind):
            yield from _iter_words(member)


def explain_unknown_key(
    composed: ComposedJob, key: str, owner: str, known: Mapping[str, Parameter]
) -> UserError:
    """Return the error for a key that its node does not accept; `owner` is the name of the node."""
    prefix, _, name = key.rpartition(".")
    near = find_nearest_key(name, known)
    setting = (
        Setting(f"{prefix}.{near}", known[near]) if near else find_setting(name, composed.config)
    )
    what = f"{key} is not a key of {owner}.{_format_hint(setting)}"
    return UserError(what, composed.where(key), _suggest_fix(composed, key, setting))


def explain_unknown_job_key(composed: ComposedJob, key: str, known: Iterable[str]) -> UserError:
    """Return the error for a key at the top of a job that is neither a group nor a setting."""
    setting = find_setting(key, composed.config)
    if setting is None and (near := find_nearest(key, known, 1)):
        setting = Setting(near[0])
    what = f"{key} is not a key of a job.{_format_hint(setting)}"
    return UserError(what, composed.where(key), _suggest_fix(composed, key, setting))


def explain_missing_class(composed: ComposedJob, error: NoSuchClass, key: str) -> UserError:
    """Return the error for a class that does not exist, or whose package is not installed."""
    if error.missing_package:
        return make_package_error(
            error.missing_package, f"{key}={error.target}", composed.where(key)
        )
    near = error.nearest_names[0] if error.nearest_names else None
    what = f"{key}={error.target}: there is no such class."
    fix = overrides.format_override(key, near) if near else f"ftcli schema {key.split('.')[0]}"
    return UserError(what + (f" Did you mean {near}?" if near else ""), composed.where(key), fix)


def _format_hint(setting: Setting | None) -> str:
    return f" Did you mean {setting.key}?" if setting else ""


def _suggest_fix(composed: ComposedJob, key: str, setting: Setting | None) -> str:
    """Return the fix: how the suggested setting is written where the unknown key is."""
    if setting is None:
        return f"see: ftcli schema {key.split('.')[0] if '.' in key else ''}".rstrip()
    given = composed.get(key)
    if isinstance(given, Mapping) and setting.parameter is None:  # a group: `optim: {lr: 1e-4}`
        override, line, others = _format_group(setting.key, given), f"{setting.key}:", list[str]()
    else:
        value, others = setting.convert(key.rpartition(".")[2], given)
        override = overrides.format_override(setting.key, value)
        line = f"{setting.key.rpartition('.')[2]}: {overrides.format_value(value)}"
    more = f", or one of {', '.join(others)}" if others else ""
    if composed.origin(key) == COMMAND_LINE:
        return override + more
    group = setting.key.rpartition(".")[0]
    same = group == key.rpartition(".")[0]
    return f"write `{line}` {'there' if same or not group else f'under `{group}:`'}{more}"


def _format_group(group: str, values: Mapping[str, Any]) -> str:
    return " ".join(
        overrides.format_override(f"{group}.{key}", value) for key, value in iter_leaves(values)
    )
