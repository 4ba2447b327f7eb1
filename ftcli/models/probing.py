"""Probe rows, error tolerances and state handling for the checks of batch layout and of decoding."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: Allowed difference of float32 losses in nats a token; for each ten nats where losses are larger.
EXACT = 1e-4
#: Allowed mean difference in nats a token of half precision and quantised weights: a bf16 logit of 20 is known
#: to 0.06, and two orders of summation differ by about that; what leaks between rows is more.
ROUNDED = 0.05
LAST_BIT = 2.0**-8  # of bfloat16, relative
SHORTEST = 21  # tokens of a row where the model has no window that a longer one would pass


def choose_row_length(model: Any, longest: int) -> int:
    """Return a row length beyond every window or chunk of the model that `longest` tokens can pass."""
    config = model.config.get_text_config()
    sizes = [
        value
        for key, value in vars(config).items()
        if re.search("window|chunk", key) and type(value) is int and 1 < value < longest
    ]
    limit = getattr(config, "max_position_embeddings", None) or 0
    limit = limit if limit > 0 else longest  # XLNet has -1 for none
    return min(max([SHORTEST, *(size + 8 for size in sizes)]), limit, longest)


def draw_rows(model: Any, lengths: Sequence[int]) -> list[Tensor]:
    """Draw rows of ids without special tokens (end, padding, image); equal vocabularies give equal rows."""
    named = [
        v for k, v in vars(model.config.get_text_config()).items() if re.search("token|_id", k)
    ]
    special = {i for value in named for i in (value if isinstance(value, list) else [value])
               if type(i) is int}  # fmt: skip
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    vocabulary = min(len(table.weight) for table in tables if table is not None)
    middle = range(vocabulary // 20, 3 * vocabulary // 4)
    chosen = torch.tensor([i for i in middle if i not in special] or [0])
    generator = torch.Generator().manual_seed(0)
    return [chosen[torch.randint(len(chosen), (n,), generator=generator)] for n in lengths]


def computes_in_fp32(model: Any) -> bool:
    """Whether a model computes in float32 throughout."""
    rounded = torch.is_autocast_enabled(next(model.parameters()).device.type)
    quantised = getattr(model, "is_quantized", False)
    return not rounded and not quantised and model.dtype == torch.float32


def compute_relative_error(model: Any, values: Tensor, expected: Tensor) -> float:
    """Return the difference of log-probabilities or losses [n], relative to what rounding explains (1)."""
    gaps = (values - expected).abs()
    if not gaps.isfinite().all():
        return math.inf
    if not computes_in_fp32(model):
        return float(gaps.mean()) / ROUNDED
    return float(gaps.max()) / (EXACT * max(1.0, float(expected.abs().max()) / 10))


def scale_error_by_sensitivity(model: Any, error: float, compute: Callable[[], Tensor]) -> float:
    """Return an error of `compute_relative_error`, lowered for models that amplify rounding errors.

    The amplification is measured: each value of the embeddings is changed by the last bit of
    bfloat16, up or down, and the mean change of the losses takes the place of `ROUNDED` if it is larger.
    Trained models with large activations move by 0.1 nats, as they do between two right kernels.

    Args:
        compute: the losses or log-probabilities [n] of rows alone, by the library's attention.
    """
    if error <= 1 or not math.isfinite(error) or computes_in_fp32(model):
        return error
    before = compute()
    generator = torch.Generator().manual_seed(0)

    def disturb(_: nn.Module, __: Any, states: Tensor) -> Tensor:
        signs = torch.randint(0, 2, states.shape, generator=generator).to(states.device) * 2 - 1
        return (states.float() * (1 + signs * LAST_BIT)).to(states.dtype)

    hook = model.get_input_embeddings().register_forward_hook(disturb)
    try:
        change = float((compute() - before).abs().mean())
    finally:
        hook.remove()
    return error / max(1.0, change / ROUNDED)


def reraise_if_out_of_memory(error: Exception) -> None:
    """Raise the error again if it is that of exhausted memory, which says nothing about the model."""
    from ftcli.core.allocator import is_oom

    if is_oom(error):
        raise error


def summarize_error(error: Exception) -> str:
    """Return class and first words of a library's error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode inside the block; restore mode and random generators afterwards."""
    from ftcli.core.rng import random_state, set_random_state

    training, before = model.training, random_state()
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        set_random_state(before)
