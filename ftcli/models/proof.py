"""How a model may be given its rows, measured on a few short ones before it is trained or judged.

Rows go through the product's own batches, attention and objective, and each alone through the
library's attention and the model's own forward. Where the token losses agree, nothing more is done.
Where they do not, further ways are measured, the fastest first, and the first right one is taken.
No list says which models are which: recurrent layers, convolutions, masks and attention of any kind
show in the losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ftcli.core.errors import UserError
from ftcli.core.row_format import Packing, Reading, RowFormat
from ftcli.models import attention
from ftcli.models.probing import (
    choose_row_length,
    draw_rows,
    is_exact,
    preserve_state,
    raise_out_of_memory,
    relative_error,
    summarize_error,
)

LEAK = 0.003
SHORT = (21, 13)  # tokens of the two rows where the model has no window that longer ones would pass
NOT_ADOPTED = "its attention cannot be told where documents end"
SEEN = 32  # tokens at either end of a row whose losses are compared


class Way(NamedTuple):
    """One way to give a model its rows."""

    packing: Packing
    attention: Literal["documents", "library"]
    reading: Reading = "plain"


@torch.no_grad()
def prove(
    model: Any, packing: str, longest: int, objective: Any, name: str = "the model"
) -> RowFormat:
    """The fastest right way, in which the model is left.

    The model is in eval mode while this lasts. Chance is not used up.

    Args:
        model: a causal language model without adapters, which look at one token at a time.
        packing: auto (flat where that is right, else none), flat, bins or none.
        longest: tokens of the longest row that will come; windows beyond it are not tried.
        objective: next-token prediction as a run computes it.

    Raises:
        UserError: no way is right, or the packing that was asked for is not.
    """
    wanted: Packing = "flat" if packing == "auto" else packing  # type: ignore[assignment]
    rows = Rows(model, longest, objective)
    with preserve_state(model):
        _refuse_unreadable(rows, name)
        failures = [] if attention.is_adopted(model) or wanted == "none" else [NOT_ADOPTED]
        for way in _ways(wanted, attention.is_adopted(model)):
            failure = rows.failure(way)
            if failure is None:
                break
            failures.append(failure)
        else:
            what = f"{name} reads no batch as it reads a row alone: {failures[-1]}."
            raise UserError(what, where="model")
        reason = _reason(rows, wanted, failures[0]) if failures else ""
    if way.packing != wanted and packing != "auto":
        what = f"{name} does not keep the documents of a packed row apart: {reason}."
        raise UserError(what, where="data.packing", fix="data.packing=auto or data.packing=none")
    attention.use(model, way.attention)
    return RowFormat(*way, reason)


def _refuse_unreadable(rows: Rows, name: str) -> None:
    """Raise where a row alone has no losses to compare with, or losses that mean nothing."""
    try:
        finite = all(bool(losses.isfinite().all()) for losses in rows.alone)
    except Exception as error:  # whatever a library raises of a model that is no decoder of text
        raise_out_of_memory(error)
        what = f"{name} cannot read a row of text: {summarize_error(error)}."
        raise UserError(what, where="model") from error
    if not finite:
        raise UserError(f"{name} gives a short row losses that are not finite.", where="model")
    if rows.look_ahead():
        raise UserError(
            f"{name} is not causal: its predictions change with tokens that come later, so that it would "
            "learn to read the answer.",
            where="model",
            fix="a decoder; is_decoder in the config.json of an encoder such as BERT makes it one",
        )


def _ways(packing: Packing, ours: bool) -> Iterator[Way]:
    """What is measured, in this order, until one is right."""
    if packing != "none":
        if ours:
            yield Way(packing, "documents")
            yield Way(packing, "documents", "reset")
    for reading in ("plain", "alone"):
        if ours:
            yield Way("none", "documents", reading)  # type: ignore[arg-type]
        yield Way("none", "library", reading)  # type: ignore[arg-type]


class Rows:
    """Two short rows of a model, and their losses in any way.

    Args:
        longest: tokens that a row may have.
        objective: next-token prediction as a run computes it.
    """

    def __init__(self, model: Any, longest: int, objective: Any) -> None:
        self.objective = objective
        self.model = model
        self.device = next(model.parameters()).device
        self.ids = draw_rows(model, (choose_row_length(model, longest), min(SHORT[1], longest)))

    def failure(self, way: Way) -> str | None:
        """How the losses of this way differ from those of each row alone; None where they do not."""
        attention.use(self.model, way.attention)
        try:
            gaps = [self._gap(way, rows) for rows in _batches(way)]
            leak = 0.0 if is_exact(self.model) else self._leak(way)
        except UserError as error:
            return error.what.rstrip(".")
        except Exception as error:  # whatever a library raises that does not know such input
            raise_out_of_memory(error)
            return summarize_error(error)
        largest = max(gaps)
        if largest > 1:
            return f"losses differ by {largest:.3g} times what rounding explains"
        return (
            None if leak <= LEAK else f"a row's losses change by {leak:.2g} nats with the other row"
        )

    def losses(self, way: Way, rows: Sequence[int], other: bool = False) -> Tensor:
        """Losses [n] of the compared tokens of these rows by the product's own batches and objective.

        Args:
            other: the first row is another one of the same length, and padding has another id.
        """
        from ftcli.data.loader import Loader

        lengths = [len(ids) for ids in self.ids]
        tokens: Any = SimpleNamespace(
            ids=np.concatenate([ids.numpy() for ids in self._ids(other)]),
            learned=np.concatenate([_compared_tokens(n) for n in lengths]),
            offsets=np.cumsum([0, *lengths]),
            lengths=np.asarray(lengths),
        )
        pad = int(self.ids[0][0]) if other else 0
        loader = Loader(tokens, len(lengths), way.packing, sum(lengths), pad, reading=way.reading)
        return self.objective(self.model, loader.batch(rows)).values.float().cpu()

    def _ids(self, other: bool) -> list[Tensor]:
        first, *rest = self.ids
        return [first.roll(1), *rest] if other else self.ids

    def _leak(self, way: Way) -> float:
        """Mean change of the second row's losses with the first row: none at all, whatever the precision.

        Only experts that compute other tokens beside it may round it in another way.
        """
        if way.reading == "alone":
            return 0.0
        size = len(self.alone[1])
        attention.use(self.model, way.attention)
        before, after = (self.losses(way, [0, 1], other)[-size:] for other in (False, True))
        return float((after - before).abs().mean())

    @cached_property
    def alone(self) -> list[Tensor]:
        """Losses [n] of each row alone by the library's attention and the model's own forward."""
        attention.use(self.model, "library")
        return [self._alone(ids) for ids in self.ids]

    def look_ahead(self) -> bool:
        """Whether losses of a row change when its last token is not there."""
        row, whole = self.ids[-1], self.alone[-1]
        if len(row) < 3:
            return False
        attention.use(self.model, "library")
        shorter = self._alone(row[:-1])
        return relative_error(self.model, shorter, whole[: len(shorter)]) > 1

    def _alone(self, ids: Tensor) -> Tensor:
        """Only the logits that are compared are made: the output layer gets their states."""
        where = torch.from_numpy(_compared_tokens(len(ids))).nonzero().flatten()

        def choose(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][:, (where - 1).to(args[0].device)], *args[1:])

        hook = self.model.get_output_embeddings().register_forward_pre_hook(choose)
        try:
            logits = self.model(input_ids=ids[None].to(self.device), use_cache=False).logits
        finally:
            hook.remove()
        return cross_entropy(logits[0].float().cpu(), ids[where], reduction="none")

    def _gap(self, way: Way, rows: Sequence[int]) -> float:
        """How far the losses of a batch are from those of its rows alone, by what may be: 1 is the most."""
        expected = torch.cat([self.alone[row] for row in rows])
        attention.use(self.model, way.attention)
        return relative_error(self.model, self.losses(way, rows), expected)


def _batches(way: Way) -> list[list[int]]:
    """The rows together; where they may be padded also one by itself, which reaches layers without a mask."""
    together = [0, 1]
    return [together] if way.packing != "none" else [together, [0]]


def _compared_tokens(length: int) -> np.ndarray:
    """Which tokens of a row are compared, bool [length]; nothing predicts the first."""
    places = np.arange(length)
    return (places > 0) & ((places <= SEEN) | (places >= length - SEEN))


def _reason(rows: Rows, packing: Packing, failure: str) -> str:
    """What went wrong first and, where it can be found, in which layer."""
    from ftcli.models.first_difference import find_first_difference

    if packing == "none" or not attention.is_adopted(rows.model):
        return failure
    place = find_first_difference(rows.model, rows.ids)
    return f"{place}; {failure}" if place else failure
