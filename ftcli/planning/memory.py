"""Memory of a training step, by part, as a function of the micro-batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ftcli.core.callback import StateSize
from ftcli.planning.activations import Activations
from ftcli.planning.optimizer_state import OptimizerState
from ftcli.planning.weights import ReferenceCopy, Weights

FLOAT32 = 4
LOGIT_COPIES = 3  # log-softmax, its gradient, and the gradient of the logits
MOST_ROWS = 2**16  # at which the search for the largest micro-batch ends
TRANSIENT = 2  # gradients as large as the largest activation that live at the same time


@dataclass(frozen=True)
class Memory:
    """Bytes by part at one micro-batch size.

    Logits and a recomputed block never exist together; all gradients and all activations do only
    while gradients are accumulated. The total is the highest of three phases:

        loss      standing + held gradients + activations + logits
        backward  standing + held gradients + activations + transient
        step      standing + all gradients + transient

    where standing = weights + adapter + reference + optimizer + callbacks + runtime + allocator.
    """

    weights: int
    adapter: int
    reference: int  # a second copy of the model that it is compared with
    optimizer: int
    callbacks: (
        int  # what callbacks keep beside model and optimizer, such as an average of the weights
    )
    gradients: int
    activations: int
    logits: int
    transient: int  # a recomputed block, gradients of activations, one dequantised weight
    runtime: int  # libraries, and on a GPU its context
    allocator: int  # freed, but not usable again
    pageable: int  # share of `optimizer` that may leave the GPU
    accumulates: bool

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts().values())

    @property
    def required(self) -> int:
        """Bytes that must fit: the peak without optimizer state that may leave the GPU."""
        return self.total - self.pageable

    def parts(self) -> dict[str, int]:
        """Return what is in memory at the peak, by part; the values add up to the total."""
        held = self.gradients if self.accumulates else 0
        forward = held + self.activations + max(self.logits, self.transient)
        at_step = self.gradients + self.transient > forward
        logits = self.logits > self.transient and not at_step
        return {
            "weights": self.weights,
            "adapter": self.adapter,
            "reference": self.reference,
            "optimizer": self.optimizer,
            "callbacks": self.callbacks,
            "gradients": self.gradients if at_step else held,
            "activations": 0 if at_step else self.activations,
            "logits": self.logits if logits else 0,
            "transient": 0 if logits else self.transient,
            "runtime": self.runtime,
            "allocator": self.allocator,
        }

    def as_dict(self) -> dict[str, int]:
        """Return the largest size of each part, and the peak, in bytes."""
        sizes = asdict(self)
        del sizes["accumulates"]
        return sizes | {"total": self.total}


@dataclass(frozen=True)
class Estimate:
    """Figures from which the memory of any micro-batch is computed.

    Attributes:
        callbacks: bytes that callbacks keep.
        gradients: bytes of the gradients of a step.
        reference: the second copy of the model.
        one_row, two_rows: activations of one and of two rows; those of more rows are extrapolated.
        row_tokens: tokens of a full row.
        hidden: width of the hidden states.
        chunk: tokens whose logits exist at the same time.
        runtime: bytes taken before the first tensor.
        heap: share of all activations of a forward pass that the allocator loses.
    """

    weights: Weights
    optimizer: OptimizerState
    callbacks: StateSize
    gradients: int
    reference: ReferenceCopy
    one_row: Activations
    two_rows: Activations
    row_tokens: int
    vocabulary: int
    hidden: int
    chunk: int
    checkpointing: bool
    accumulates: bool
    runtime: int
    heap: float

    def memory(self, rows: float, checkpointing: bool | None = None) -> Memory:
        """Return the memory of a micro-batch of `rows` full rows, every token supervised.

        A reference copy that leaves before the first step never meets gradients and optimizer state:
        the larger of the two phases is returned.

        Args:
            checkpointing: with gradient checkpointing; None for what the job says.
        """
        copy, leaves = self.reference.bytes, self.reference.leaves
        standing = 0 if leaves else copy
        train = self._backward if self.optimizer.uses_backward else self._forward_only
        steps = train(rows, checkpointing, standing)
        if not leaves:
            return steps
        before = self._forward_only(rows, checkpointing, copy)
        return max(steps, replace(before, optimizer=0, pageable=0), key=lambda m: m.required)

    def _backward(self, rows: float, checkpointing: bool | None, reference: int) -> Memory:
        """Return the memory of a step with a backward pass."""
        recompute = self.checkpointing if checkpointing is None else checkpointing
        kept = _extrapolate(
            self.one_row.kept_bytes(recompute), self.two_rows.kept_bytes(recompute), rows
        )
        block = (
            _extrapolate(self.one_row.largest_block, self.two_rows.largest_block, rows)
            if recompute
            else 0
        )
        largest = _extrapolate(self.one_row.largest_storage, self.two_rows.largest_storage, rows)
        tokens = rows * self.row_tokens
        return Memory(
            weights=self.weights.base,
            adapter=self.weights.adapter,
            reference=reference,
            optimizer=self.optimizer.bytes,
            callbacks=self.callbacks.memory,
            gradients=self.gradients,
            activations=kept,
            logits=self.logits(tokens),
            transient=block + TRANSIENT * largest + self.weights.dequantised,
            runtime=self.runtime,
            allocator=round(
                self.heap
                * _extrapolate(self.one_row.kept_bytes(), self.two_rows.kept_bytes(), rows)
            ),
            pageable=self.optimizer.pageable,
            accumulates=self.accumulates,
        )

    def _forward_only(self, rows: float, _: bool | None, reference: int) -> Memory:
        """Return the memory of forward passes: no activation is kept, logits exist twice (log-softmax)."""
        tokens = rows * self.row_tokens
        logits = self.logits(tokens, copies=2)
        largest = _extrapolate(self.one_row.largest_storage, self.two_rows.largest_storage, rows)
        return Memory(
            weights=self.weights.base,
            adapter=self.weights.adapter,
            reference=reference,
            optimizer=self.optimizer.bytes,
            callbacks=self.callbacks.memory,
            gradients=0,
            activations=0,
            logits=logits,
            transient=TRANSIENT * largest + self.weights.dequantised,
            runtime=self.runtime,
            allocator=0,
            pageable=self.optimizer.pageable,
            accumulates=False,
        )

    def with_accumulation(self) -> Estimate:
        """Return the estimate of the same job with gradients accumulated over micro-batches."""
        return replace(self, accumulates=True)

    def logits(self, tokens: float, copies: int = LOGIT_COPIES) -> int:
        """Return chunk x vocabulary x 4 bytes x copies, plus twice the hidden states of all tokens."""
        held = min(tokens, self.chunk) * self.vocabulary * FLOAT32 * copies
        return round(held + 2 * tokens * self.hidden * FLOAT32)

    def largest_rows(self, budget: float, checkpointing: bool | None = None) -> int:
        """Return the most full rows a micro-batch may have within `budget` bytes; 0 where one does not fit."""
        low, high = 0, 1
        while self.memory(high, checkpointing).required <= budget and high < MOST_ROWS:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.memory(middle, checkpointing).required <= budget
            low, high = (middle, high) if fits else (low, middle)
        return low


def _extrapolate(one: int, two: int, rows: float) -> int:
    """Extrapolate the values at one and two rows linearly to `rows`."""
    return round(one + (rows - 1) * (two - one))
