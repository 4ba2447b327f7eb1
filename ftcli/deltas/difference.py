"""Finetuned minus base, of two models or of an adapter and a fresh one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.deltas.artefact import Artefact
from ftcli.deltas.delta import Delta, find_widest_dtype, pad_rows

#: Value of the tensors of a fresh adapter that is subtracted, by PEFT's type (ComPEFT, arXiv 2311.13171, section 2).
ORIGINS = {"LORA": 0.0, "IA3": 1.0}


def compute_delta(finetuned: Artefact, base: Artefact) -> Delta:
    """Return the delta of a model or an adapter.

    Raises:
        UserError: the tensors do not fit, or the adapter is neither LoRA nor IA3.
    """
    return (
        compute_model_delta(finetuned, base)
        if finetuned.kind == "model"
        else compute_adapter_delta(finetuned, base)
    )


def compute_model_delta(finetuned: Artefact, base: Artefact) -> Delta:
    """Return finetuned minus base. Tokens that the base lacks count as zero rows (arXiv 2503.20110).

    Raises:
        UserError: they do not have the same tensors.
    """
    layout = {n: v for n, v in finetuned.weights.layout.items() if v[1].is_floating_point}
    refuse_misfits(layout, base.weights.layout, finetuned, str(base.folder))
    return Delta(
        kind="model",
        base=base.fingerprint,
        shapes={name: shape for name, (shape, _) in layout.items()},
        read=lambda name: _difference(finetuned.weights[name], base.weights[name]),
        dtype=find_widest_dtype(dtype for _, dtype in layout.values()),
        history=(f"{finetuned.folder} minus {base.folder}",),
        source=finetuned,
    )


def compute_adapter_delta(adapter: Artefact, base: Artefact) -> Delta:
    """Return the tensors of an adapter minus those of a fresh one.

    Raises:
        UserError: the adapter is neither LoRA nor IA3, or holds whole modules besides.
    """
    config = adapter.config
    kind = str(config.get("peft_type", "")).upper()
    other_tensors = [name for name in adapter.weights if f"{kind.lower()}_" not in name]
    if kind not in ORIGINS or other_tensors:
        what = f"{kind or 'it'} is no LoRA and no IA3"
        if kind in ORIGINS:
            what = f"it holds whole tensors besides, such as {other_tensors[0]}"
        raise UserError(
            f"the adapter's tensors are not a change by themselves: {what}.",
            where=str(adapter.folder),
            fix="ftcli merge RUN --to FOLDER, then take the delta of that model",
        )
    layout, origin = adapter.weights.layout, ORIGINS[kind]
    return Delta(
        kind="adapter",
        base=base.fingerprint,
        shapes={name: shape for name, (shape, _) in layout.items()},
        read=lambda name: adapter.weights[name].double() - origin,
        dtype=find_widest_dtype(dtype for _, dtype in layout.values()),
        history=(f"{adapter.folder} minus {origin:g}",),
        source=adapter,
        origin=origin,
    )


def refuse_misfits(
    finetuned_layout: Mapping[str, Any],
    base_layout: Mapping[str, Any],
    model: Artefact,
    called: str,
) -> None:
    """Refuse a model that lacks tensors or has other shapes; token embeddings may differ in rows.

    Raises:
        UserError: the first tensor that does not fit.
    """
    for name, (shape, _) in finetuned_layout.items():
        if name not in base_layout:
            raise UserError(f"{called} has no tensor {name}.", fix="is it the same architecture?")
        other = base_layout[name][0]
        if shape == other or (shape[1:] == other[1:] and name in model.vocabulary):
            continue
        raise UserError(
            f"{name} is {list(shape)} in {model.folder} and {list(other)} in {called}.",
            fix="both must have the same architecture",
        )


def _difference(finetuned: Tensor, base: Tensor) -> Tensor:
    after, before = finetuned.to(torch.float64, copy=True), base
    if after.dim() and len(before) < len(after):
        before = pad_rows(before, tuple(after.shape))
    return after.sub_(before[: len(after)] if after.dim() else before)
