"""The change of the base's matrices by a LoRA: scaling * B A, one matrix at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.deltas.artefact import Artefact
from ftcli.deltas.delta import Delta

PREFIX = "base_model.model."
FACTORS = {".lora_A.weight": ".lora_B.weight", ".lora_embedding_A": ".lora_embedding_B"}


def multiply_factors(factors: Delta) -> Delta:
    """Return the delta of the model from the delta of a LoRA's factors.

    Merging adds it to plain weights. Averages of factors are not averages of products.

    Raises:
        UserError: the adapter is not a plain LoRA: its change is not a product, or not of this base.
    """
    adapter = factors.source
    assert adapter is not None
    _refuse_other_kinds(adapter)
    pairs = dict(_pairs(factors))
    _refuse_half_of_a_tie(pairs, adapter)
    layout = adapter.base.weights.layout
    unknown = [name for name in pairs if name not in layout]
    if unknown:
        raise UserError(f"the base has no tensor {unknown[0]}.", where=str(adapter.folder))

    def read(name: str) -> Tensor:
        first, second, factor, turned = pairs[name]
        product = factors.read(second) @ factors.read(first) * factor
        return product.T if turned else product

    return replace(
        factors,
        kind="model",
        shapes={name: layout[name][0] for name in sorted(pairs)},
        read=read,
        history=(*factors.history, "factors multiplied"),
        source=adapter.base,
        origin=0.0,
    )


def strengthen_delta(delta: Delta, factor: float) -> Delta:
    """Return the delta times `factor`; of a LoRA's factors only B is multiplied."""
    if not any(is_second(name) for name in delta.shapes):
        return delta.scale(factor)
    return delta.map(
        lambda name, tensor: tensor * factor if is_second(name) else tensor,
        f"{factor:g} times as strong",
    )


def is_second(name: str) -> bool:
    """Whether a tensor is the factor B of a LoRA."""
    return any(name.endswith(second) for second in FACTORS.values())


def _pairs(factors: Delta) -> Any:
    """Yield the base's tensor with the names of A and B, the scaling, and whether B A is its transpose."""
    assert factors.source is not None
    config = factors.source.config
    for first in factors.shapes:
        ending = next((e for e in FACTORS if first.endswith(e)), None)
        if ending is None:
            continue
        module = first.removesuffix(ending)
        inner = module.removeprefix(PREFIX)
        rank = factors.shapes[first][0]
        alpha = _pattern(config.get("alpha_pattern"), inner, config["lora_alpha"])
        scaling = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        turned = bool(config.get("fan_in_fan_out")) or "embedding" in ending
        yield f"{inner}.weight", (first, module + FACTORS[ending], scaling, turned)


def _pattern(patterns: dict[str, float] | None, module: str, otherwise: float) -> float:
    """Return the value of the first pattern that matches the end of the module's name, as PEFT does."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf".*\.{pattern}$", module) or module == pattern:
            return value
    return otherwise


def _refuse_half_of_a_tie(names: Iterable[str], adapter: Artefact) -> None:
    """Refuse a change of a matrix that the base uses as token embeddings and as output head."""
    anatomy = adapter.base.anatomy
    shared = adapter.base.vocabulary if anatomy.tied else frozenset()
    if any(name in shared for name in names):
        raise UserError(
            "the adapter changes the token embeddings, which the base shares with its output head.",
            where=str(adapter.folder),
            fix="take the change as factors, without --product",
        )


def _refuse_other_kinds(adapter: Artefact) -> None:
    config = adapter.config
    start = str(config.get("init_lora_weights", True))
    marks = ("use_dora", "use_qalora", "use_bdlora", "trainable_token_indices", "lora_bias")
    unsupported = [mark for mark in marks if config.get(mark)]
    if str(config.get("peft_type")).upper() != "LORA" or unsupported:
        why = unsupported[0] if unsupported else str(config.get("peft_type"))
    elif start not in ("True", "gaussian", "False", "eva", "orthogonal"):
        why = f"init_lora_weights={start} moved the base"
    else:
        return
    raise UserError(
        f"the change is no plain product of two factors: {why}.",
        where=str(adapter.folder),
        fix="ftcli merge RUN --to FOLDER, then take the delta of that model",
    )
