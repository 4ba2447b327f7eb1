"""The layer at which a document in a packed row first differs from the same document alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

States = dict[str, tuple[Tensor | None, Tensor | None]]  # module -> its input and output


def find_first_difference(model: Any, rows: Sequence[Tensor]) -> str | None:
    """Describe the first module whose output differs on equal input; None where there is none.

    Args:
        rows: ids [t] of documents; states of the last are compared, packed behind the others and alone.
    """
    from ftcli.models import attention
    from ftcli.models.attention_layout import pack_inputs

    lengths, last = [len(row) for row in rows], rows[-1]
    device = next(model.parameters()).device
    start = sum(lengths[:-1])
    batch = {
        "input_ids": torch.cat(list(rows))[None].to(device),
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None].to(device),
        "lengths": torch.tensor(lengths),
    }
    attention.set_attention(model, "documents")
    packed = _run_recorded(model, pack_inputs(batch, device), slice(start, sum(lengths)))
    alone = _run_recorded(model, {"input_ids": last[None].to(device)}, slice(0, len(last)))
    for name in packed:
        (inputs, outputs), (inputs_alone, outputs_alone) = (
            packed[name],
            alone.get(name, (None, None)),
        )
        if _equal(inputs, inputs_alone) is True and _equal(outputs, outputs_alone) is False:
            return _describe(model, name)
    return None


def _run_recorded(model: nn.Module, inputs: dict[str, Any], part: slice) -> States:
    """Record input and output of each module for a part of the row, in the order of completion."""
    states: States = {}
    # a model may fail on such a row: what was recorded before is still compared
    with _record_states(model, states, part), suppress(Exception):
        model(**inputs, use_cache=False)
    return states


@contextmanager
def _record_states(model: nn.Module, states: States, part: slice) -> Iterator[None]:
    """Write the states of each named module to `states` inside the block."""

    def record(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            hidden = kwargs.get("hidden_states", args[0] if args else None)
            result = output[0] if isinstance(output, tuple) and output else output
            states[name] = (_select(hidden, part), _select(result, part))

        return hook

    handles = [
        module.register_forward_hook(record(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _select(value: Any, part: slice) -> Tensor | None:
    """Return a part of hidden states [1, T, d]; None for other values."""
    if not isinstance(value, Tensor) or value.dim() != 3 or value.shape[1] < part.stop:
        return None
    return value[:, part].float()


def _equal(states: Tensor | None, other: Tensor | None) -> bool | None:
    """Whether states are equal up to rounding (1 %); None where they cannot be compared."""
    if states is None or other is None or states.shape != other.shape:
        return None
    scale = max(1e-6, float(other.abs().max()))
    return float((states - other).abs().max()) <= 0.01 * scale


def _describe(model: nn.Module, name: str) -> str:
    """Describe a module for a message, with its kind: convolution, attention or another layer."""
    from ftcli.models.anatomy import ATTENTION_MARKS

    module = model.get_submodule(name)
    if any(isinstance(part, nn.Conv1d) for part in module.modules()):
        kind = "convolution or recurrent layer"
    elif any(hasattr(module, mark) for mark in ATTENTION_MARKS):
        kind = "attention"
    else:
        kind = "layer"
    return f"the {kind} {name} ({type(module).__name__}) mixes documents that share a row"
