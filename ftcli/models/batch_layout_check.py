"""The batch layout a model reads correctly, measured on two short rows before training or evaluation.

Rows go through ftcli's batches, attention and objective, and each alone through the library's attention
and the model's own forward. Where the token losses agree, nothing more is done. Where they do not,
further formats are measured, the fastest first, and the first right one is taken. There is no list of
models: recurrent layers, convolutions, masks and attention of any kind show in the losses.
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

from ftcli.core.batch_layout import BatchLayout, DocumentIsolation, Packing
from ftcli.core.errors import UserError
from ftcli.models import attention
from ftcli.models.probing import (
    choose_row_length,
    compute_relative_error,
    computes_in_fp32,
    draw_rows,
    preserve_state,
    reraise_if_out_of_memory,
    scale_error_by_sensitivity,
    summarize_error,
)

LEAK = 0.003  # nats a token by which a row's losses may change with the other row
SECOND_ROW = 13  # tokens of the second row; the first is longer than the model's windows
NOT_REPLACEABLE = "its attention implementation cannot be replaced"
COMPARED = 32  # tokens at either end of a row whose losses are compared


class CandidateLayout(NamedTuple):
    """A batch layout to compare with single rows."""

    packing: Packing
    attention: Literal["documents", "library"]
    document_isolation: DocumentIsolation = "attention"


@torch.no_grad()
def select_batch_layout(
    model: Any, packing: str, longest: int, objective: Any, name: str = "the model"
) -> BatchLayout:
    """Select the fastest batch layout that reproduces the losses of single rows, and switch the model's attention to it.

    Mode and random generators are restored.

    Args:
        model: a causal language model; adapters act on one token at a time and are left out.
        packing: auto (flat where that is right, else none), flat, bins or none.
        longest: tokens of the longest row in training; windows beyond it are not tried.
        objective: next-token prediction as a run computes it.

    Raises:
        UserError: no batch layout reproduces the losses of single rows, or the packing that was asked for does not.
    """
    wanted: Packing = "flat" if packing == "auto" else packing  # type: ignore[assignment]
    rows = ProbeRows(model, longest, objective)
    with preserve_state(model):
        _refuse_unreadable(rows, name)
        failures = (
            [] if attention.has_document_attention(model) or wanted == "none" else [NOT_REPLACEABLE]
        )
        for candidate in _list_candidates(wanted, attention.has_document_attention(model)):
            failure = rows.find_failure(candidate)
            if failure is None:
                break
            failures.append(failure)
        else:
            what = (
                f"no batch layout reproduces the losses of {name} on single rows: {failures[-1]}."
            )
            raise UserError(what, where="model")
        reason = _explain(rows, wanted, failures[0]) if failures else ""
    if candidate.packing != wanted and packing != "auto":
        what = f"{name} does not keep the documents of a packed row apart: {reason}."
        raise UserError(what, where="data.packing", fix="data.packing=auto or data.packing=none")
    attention.set_attention(model, candidate.attention)
    return BatchLayout(*candidate, reason)


def _refuse_unreadable(rows: ProbeRows, name: str) -> None:
    """Raise where a row alone has no finite losses to compare with, or the model is not causal."""
    try:
        finite = all(bool(losses.isfinite().all()) for losses in rows.losses_alone)
    except Exception as error:  # any error of a library on a model that is no decoder of text
        reraise_if_out_of_memory(error)
        what = f"{name} cannot read a row of text: {summarize_error(error)}."
        raise UserError(what, where="model") from error
    if not finite:
        raise UserError(f"{name} gives a short row losses that are not finite.", where="model")
    if rows.looks_ahead():
        raise UserError(
            f"{name} is not causal: its predictions change with tokens that come later, so that it would "
            "learn to read the answer.",
            where="model",
            fix="a decoder; is_decoder in the config.json of an encoder such as BERT makes it one",
        )


def _list_candidates(packing: Packing, replaceable: bool) -> Iterator[CandidateLayout]:
    """Yield the layouts in the order in which they are tried."""
    if packing != "none":
        if replaceable:
            yield CandidateLayout(packing, "documents")
            yield CandidateLayout(packing, "documents", "reset_state")
    for isolation in ("attention", "one_row_per_forward"):
        if replaceable:
            yield CandidateLayout("none", "documents", isolation)  # type: ignore[arg-type]
        yield CandidateLayout("none", "library", isolation)  # type: ignore[arg-type]


class ProbeRows:
    """Two short probe rows of token ids, and the losses of a model on them in any batch layout.

    Args:
        longest: tokens that a row may have.
        objective: next-token prediction as a run computes it.
    """

    def __init__(self, model: Any, longest: int, objective: Any) -> None:
        self.objective = objective
        self.model = model
        self.device = next(model.parameters()).device
        self.ids = draw_rows(model, (choose_row_length(model, longest), min(SECOND_ROW, longest)))

    def find_failure(self, candidate: CandidateLayout) -> str | None:
        """Say how the losses of a layout differ from those of each row alone; None where they do not."""
        attention.set_attention(self.model, candidate.attention)
        try:
            errors = [self._measure_error(candidate, rows) for rows in _row_batches(candidate)]
            leak = 0.0 if computes_in_fp32(self.model) else self._measure_leak(candidate)
        except UserError as error:
            return error.what.rstrip(".")
        except Exception as error:  # any error of a library that does not know such input
            reraise_if_out_of_memory(error)
            return summarize_error(error)
        largest = max(errors)
        if largest > 1:
            return f"losses differ by {largest:.3g} times what rounding explains"
        return (
            None if leak <= LEAK else f"a row's losses change by {leak:.2g} nats with the other row"
        )

    def compute_losses(
        self, candidate: CandidateLayout, rows: Sequence[int], other: bool = False
    ) -> Tensor:
        """Compute the losses [n] of the compared tokens of rows by ftcli's batches and objective.

        Args:
            other: replace the first row by another one of the same length, and the id of padding.
        """
        from ftcli.data.loader import Loader

        lengths = [len(ids) for ids in self.ids]
        tokens: Any = SimpleNamespace(
            ids=np.concatenate([ids.numpy() for ids in self._ids(other)]),
            loss_mask=np.concatenate([_compared_tokens(n) for n in lengths]),
            offsets=np.cumsum([0, *lengths]),
            lengths=np.asarray(lengths),
        )
        pad = int(self.ids[0][0]) if other else 0
        loader = Loader(
            tokens,
            len(lengths),
            candidate.packing,
            sum(lengths),
            pad,
            document_isolation=candidate.document_isolation,
        )
        return self.objective(self.model, loader.batch(rows)).values.float().cpu()

    def _ids(self, other: bool) -> list[Tensor]:
        first, *rest = self.ids
        return [first.roll(1), *rest] if other else self.ids

    def _measure_leak(self, candidate: CandidateLayout) -> float:
        """Return the mean change of the second row's losses when the first row changes.

        In any precision there must be none, but for experts, where other tokens change the rounding.
        """
        if candidate.document_isolation == "one_row_per_forward":
            return 0.0
        size = len(self.losses_alone[1])
        attention.set_attention(self.model, candidate.attention)
        before, after = (
            self.compute_losses(candidate, [0, 1], other)[-size:] for other in (False, True)
        )
        return float((after - before).abs().mean())

    @cached_property
    def losses_alone(self) -> list[Tensor]:
        """Losses [n] of each row alone, by the library's attention and the model's own forward."""
        attention.set_attention(self.model, "library")
        return [self._compute_alone(ids) for ids in self.ids]

    def looks_ahead(self) -> bool:
        """Whether the losses of a row change when its last token is removed."""
        row, whole = self.ids[-1], self.losses_alone[-1]
        if len(row) < 3:
            return False
        attention.set_attention(self.model, "library")
        shorter = self._compute_alone(row[:-1])
        return compute_relative_error(self.model, shorter, whole[: len(shorter)]) > 1

    def _compute_alone(self, ids: Tensor) -> Tensor:
        """Compute the losses [n] of a row; the output layer gets the states of compared tokens only."""
        where = torch.from_numpy(_compared_tokens(len(ids))).nonzero().flatten()

        def select(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][:, (where - 1).to(args[0].device)], *args[1:])

        hook = self.model.get_output_embeddings().register_forward_pre_hook(select)
        try:
            logits = self.model(input_ids=ids[None].to(self.device), use_cache=False).logits
        finally:
            hook.remove()
        return cross_entropy(logits[0].float().cpu(), ids[where], reduction="none")

    def _measure_error(self, candidate: CandidateLayout, rows: Sequence[int]) -> float:
        """Return the error of a batch's losses against its rows alone, relative to what is allowed (1)."""
        expected = torch.cat([self.losses_alone[row] for row in rows])
        attention.set_attention(self.model, candidate.attention)
        error = compute_relative_error(self.model, self.compute_losses(candidate, rows), expected)
        attention.set_attention(self.model, "library")
        return scale_error_by_sensitivity(
            self.model, error, lambda: torch.cat([self._compute_alone(ids) for ids in self.ids])
        )


def _row_batches(candidate: CandidateLayout) -> list[list[int]]:
    """Return batches of rows: both, and without packing also one alone, which gets no mask."""
    together = [0, 1]
    return [together] if candidate.packing != "none" else [together, [0]]


def _compared_tokens(length: int) -> np.ndarray:
    """Return which tokens of a row are compared, bool [length]; nothing predicts the first."""
    places = np.arange(length)
    return (places > 0) & ((places <= COMPARED) | (places >= length - COMPARED))


def _explain(rows: ProbeRows, packing: Packing, failure: str) -> str:
    """Return what failed first and, where it can be found, in which layer."""
    from ftcli.models.first_difference import find_first_difference

    if packing == "none" or not attention.has_document_attention(rows.model):
        return failure
    place = find_first_difference(rows.model, rows.ids)
    return f"{place}; {failure}" if place else failure
