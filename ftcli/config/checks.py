"""Contradictions between keys, and the requirements that jobs and options state.

The checks run when every single value is valid, before torch is imported or anything is downloaded.

`requires:` in a job or an option names the values that other keys must have:

    requires:
      model.quantization: {one_of: [nf4, fp4, int8], because: QLoRA needs a quantised base, or: method=lora}

or only the list of values. `given: true` in the place of `one_of` asks for any value that is not null.
`fix: optimizer=mezo` is the override to suggest when setting the key directly does not work.
With `derive: true` the key takes the first of them unless it is set.
`requires` stays in the configuration and is passed to no class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ftcli.config.job import (
    COLLECTIONS,
    COMMAND_LINE,
    REQUIRES,
    ComposedJob,
    get_capability,
    get_effective_value,
)
from ftcli.config.paths import format_path
from ftcli.config.sharding import check_sharding
from ftcli.config.value_ranges import check_ranges
from ftcli.core.errors import UserError
from ftcli.core.run_dir import is_plain_name

log = logging.getLogger("ftcli.config")


def find_problems(composed: ComposedJob) -> list[UserError]:
    """Return all contradictions and unmet requirements of a job."""
    return find_unmet_requirements(composed) + [e for check in CHECKS for e in check(composed)]


def check_file_names(composed: ComposedJob) -> Iterator[UserError]:
    """Names of runs, evaluators and the like become file names and must not be paths."""
    names: dict[str, Any] = {"run.name": composed.get("run.name")}
    for group in COLLECTIONS:
        nodes = composed.config.get(group)
        for name, node in nodes.items() if isinstance(nodes, dict) else ():
            names[f"{group}.{name}"] = name
            names[f"{group}.{name}.name"] = node.get("name") if isinstance(node, dict) else None
    for key, name in names.items():
        if name is not None and not is_plain_name(str(name)):
            what = f"{str(name)!r} is not a valid file name."
            yield _make_error(
                composed,
                key,
                what,
                "use letters, digits, - and _, without / and without .. in front",
            )


def check_end(composed: ComposedJob) -> Iterator[UserError]:
    """Training needs a number of steps or of epochs."""
    keys = ("trainer.max_steps", "trainer.epochs")
    if "trainer" in composed.config and all(
        get_effective_value(composed, key) is None for key in keys
    ):
        what = "trainer.max_steps and trainer.epochs are both null: training would have no end."
        yield _make_error(composed, "trainer.epochs", what, "trainer.epochs=1")


def check_quantised_base(composed: ComposedJob) -> Iterator[UserError]:
    """A method that trains the base's own weights cannot train quantised ones."""
    stored = get_effective_value(composed, "model.quantization")
    if stored not in (None, "none") and get_capability(composed, "method", "quantisable") is False:
        what = f"{composed.format_choice('method')} with {_format_setting(composed, 'model.quantization', stored)}: "
        what += (
            "this method trains the base's own weights, and quantised weights cannot be trained."
        )
        yield UserError(what, fix="either model.quantization=none or an adapter, method=lora")


def check_half_weights(composed: ComposedJob) -> Iterator[UserError]:
    """Small updates underflow in float16 weights, and float16 weights do not mix with bfloat16 activations."""
    if get_effective_value(composed, "model.dtype") != "float16":
        return
    at = _format_setting(composed, "model.dtype", "float16")
    if get_capability(composed, "method", "artefact") == "model":
        what = f"{composed.format_choice('method')} with {at}: small updates vanish in float16 weights."
        yield UserError(what, fix="model.dtype=bfloat16 or model.dtype=float32")
    if get_effective_value(composed, "trainer.precision") == "bf16":
        what = f"{_format_setting(composed, 'trainer.precision', 'bf16')} with {at}: the forward pass would mix bfloat16 activations and float16 weights."
        yield UserError(what, fix="model.dtype=bfloat16")


def check_packed_attention(composed: ComposedJob) -> Iterator[UserError]:
    """Packed rows need ftcli's own attention, which alone separates their documents."""
    packing, attention = (
        get_effective_value(composed, "data.packing"),
        get_effective_value(composed, "model.attention"),
    )
    if packing in (None, "none", "auto") or attention in (None, "auto"):
        return
    what = f"{_format_setting(composed, 'data.packing', packing)} with {_format_setting(composed, 'model.attention', attention)}: "
    what += "documents that share a row would attend to each other."
    yield UserError(what, fix="either model.attention=auto or data.packing=none")


def check_packed_prompts(composed: ComposedJob) -> Iterator[UserError]:
    """A method that adds tokens in front of a row cannot add them in front of each document in it."""
    packing = get_effective_value(composed, "data.packing")
    if (
        packing not in (None, "none", "auto")
        and get_capability(composed, "method", "packable") is False
    ):
        what = f"{composed.format_choice('method')} with {_format_setting(composed, 'data.packing', packing)}: "
        what += "it adds tokens in front of each row, but a packed row holds several documents."
        yield UserError(what, fix="data.packing=none")


def check_recomputed_blocks(composed: ComposedJob) -> Iterator[UserError]:
    """Recomputed blocks do not get the key-value cache through which some methods reach them."""
    if not get_effective_value(composed, "trainer.gradient_checkpointing"):
        return
    if get_capability(composed, "method", "gradient_checkpointing") is False:
        what = f"{composed.format_choice('method')} with {_format_setting(composed, 'trainer.gradient_checkpointing', True)}: "
        what += "its blocks cannot be recomputed in the backward pass."
        yield UserError(what, fix="trainer.gradient_checkpointing=false")


def check_warmups(composed: ComposedJob) -> Iterator[UserError]:
    """Warmup is given as ratio and as steps in one place; in different places, the command line wins."""
    keys = ("scheduler.warmup_ratio", "scheduler.warmup_steps")
    ratio, steps = (composed.get(key) for key in keys)
    if not ratio or steps is None:
        return
    typed = [composed.origin(key) == COMMAND_LINE for key in keys]
    if typed[0] == typed[1] or typed[0]:
        what = f"scheduler.warmup_ratio={ratio} and scheduler.warmup_steps={steps} are both given."
        fix = "keep one: scheduler.warmup_ratio=0 or scheduler.warmup_steps=null"
        yield _make_error(composed, keys[1], what, fix)
    else:
        log.warning(
            "%s is ignored: scheduler.warmup_steps=%s is given",
            _format_setting(composed, keys[0], ratio),
            steps,
        )


def warn_unreached_evaluation(composed: ComposedJob) -> Iterator[UserError]:
    """Warn of an evaluation interval longer than the run; a short trial of a long job has one."""
    steps = composed.get("trainer.max_steps")
    every = composed.get("trainer.eval_every")
    if isinstance(steps, int) and isinstance(every, int) and every > steps:
        log.warning(
            "%s: the run has %d steps, so it is evaluated only before and after training",
            _format_setting(composed, "trainer.eval_every", every), steps,
        )  # fmt: skip
    return iter(())


def warn_unused_compute_dtype(composed: ComposedJob) -> Iterator[UserError]:
    """Warn of a compute dtype without 4-bit weights, which alone use one."""
    compute_dtype = composed.get("model.compute_dtype")
    quantization = get_effective_value(composed, "model.quantization")
    if compute_dtype and quantization in ("none", "int8"):
        log.warning(
            "%s is ignored: model.quantization=%s",
            _format_setting(composed, "model.compute_dtype", compute_dtype),
            quantization,
        )
    return iter(())


Check = Callable[[ComposedJob], Iterator[UserError]]
CHECKS: tuple[Check, ...] = (
    check_ranges, check_file_names, check_end, check_quantised_base, check_half_weights, check_packed_attention, check_packed_prompts,
    check_recomputed_blocks, check_sharding,
    check_warmups, warn_unreached_evaluation, warn_unused_compute_dtype,
)  # fmt: skip


def _format_setting(composed: ComposedJob, key: str, current: Any) -> str:
    """Format a setting with its origin: `model.quantization=nf4 (configs/my.yaml:9)`."""
    place = f" ({composed.where(key)})" if composed.get(key) is not None else " (its default)"
    return f"{key}={current}{place}"


def _make_error(composed: ComposedJob, key: str, what: str, fix: str) -> UserError:
    return UserError(what, where=composed.where(key), fix=fix)


def find_unmet_requirements(composed: ComposedJob) -> list[UserError]:
    """Return an error for every requirement of the job or of a chosen option that is not met."""
    problems = []
    for owner, key, rule in _iter_rules(composed.config):
        details = rule if isinstance(rule, Mapping) else {}
        setting = get_effective_value(composed, key)
        met = setting is not None if details.get("given") else setting in _list_values(rule)
        if not met:
            problems.append(_make_unmet_error(composed, owner, key, _list_values(rule), details))
    return problems


def derive_keys(composed: ComposedJob) -> None:
    """Set the keys that options derive, unless the job sets them; their origin is the option's line."""
    for owner, key, rule in _iter_rules(composed.config):
        group, _, name = key.partition(".")
        node = composed.config.get(group)
        if not isinstance(rule, Mapping) or not rule.get("derive") or not isinstance(node, dict):
            continue
        if name not in node and get_effective_value(composed, key) is not None:
            node[name] = _list_values(rule)[0]
            composed.origins[key] = composed.origin(f"{owner}.{REQUIRES}" if owner else REQUIRES)


def read_allowed_values(node: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the requirements of one option: key -> allowed values."""
    return {str(key): _list_values(rule) for key, rule in (node.get(REQUIRES) or {}).items()}


def _list_values(rule: Any) -> list[Any]:
    values = rule.get("one_of") if isinstance(rule, Mapping) else rule
    return values if isinstance(values, list) else [values]


def _iter_rules(node: Mapping[str, Any], owner: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield requirements: the group that states it ('' for the job), the key, and the rule."""
    for name, inner in node.items():
        if not isinstance(inner, Mapping):
            continue
        if name == REQUIRES:
            yield from ((owner, str(key), rule) for key, rule in inner.items())
        elif not owner or owner in COLLECTIONS:
            yield from _iter_rules(inner, f"{owner}.{name}" if owner else name)


def _make_unmet_error(
    composed: ComposedJob, owner: str, key: str, values: list[Any], rule: Mapping[str, Any]
) -> UserError:
    asker = composed.format_choice(owner) if owner else format_path(composed.job_file)
    because = rule.get("because") or f"it is made for {', '.join(map(str, values))}"
    what = f"{asker} with {key}={get_effective_value(composed, key)} ({composed.where(key)}): {because}."
    instead = rule.get("or") or ("" if owner else "~requires to do without")
    way = str(rule.get("fix") or f"{key}={values[0]}")
    ways = [way, *([str(instead)] if instead else [])]
    return UserError(what, fix=f"either {' or '.join(ways)}" if instead else ways[0])
