"""Memory of a training step, part by part, as a function of the micro-batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ftcli.planning.activations import Activations
from ftcli.planning.optimizer_state import OptimizerState
from ftcli.planning.reference import SecondCopy
from ftcli.planning.weights import Weights

FLOAT32 = 4
LOGIT_COPIES = 3  # log-softmax, its gradient, and the gradient of the logits
MOST_ROWS = 2**16
TRANSIENT = 2  # gradients as large as the largest activation that live at the same time


@dataclass(frozen=True)
class Memory:
    """Bytes by part at one micro-batch size.

    Logits and the block that is being computed again are never there together; gradients and all
    activations meet only while gradients are accumulated. The total is the higher of the moments:

        loss      standing + held gradients + activations + logits
        backward  standing + held gradients + activations + transient
        step      standing + all gradients + transient

    where standing = weights + adapter + reference + optimizer + runtime + allocator.
    """

    weights: int
    adapter: int
    reference: int  # a second copy of the model that it is compared with
    optimizer: int
    gradients: int
    activations: int
    logits: int
    transient: int  # a block computed again, gradients on their way, one weight unpacked
    runtime: int  # libraries, and on a GPU its context
    allocator: int  # freed, but of no use any more
    pageable: int  # share of `optimizer` that may leave the GPU
    accumulates: bool

    @property
    def total(self) -> int:
        """The peak."""
        return sum(self.parts().values())

    @property
    def least(self) -> int:
        """The peak once a paged optimizer's state has left the GPU: what must fit."""
        return self.total - self.pageable

    def parts(self) -> dict[str, int]:
        """What is in memory at the moment that needs most; the values add up to the total."""
        held = self.gradients if self.accumulates else 0
        forward = held + self.activations + max(self.logits, self.transient)
        at_step = self.gradients + self.transient > forward
        logits = self.logits > self.transient and not at_step
        return {
            "weights": self.weights,
            "adapter": self.adapter,
            "reference": self.reference,
            "optimizer": self.optimizer,
            "gradients": self.gradients if at_step else held,
            "activations": 0 if at_step else self.activations,
            "logits": self.logits if logits else 0,
            "transient": 0 if logits else self.transient,
            "runtime": self.runtime,
            "allocator": self.allocator,
        }

    def as_dict(self) -> dict[str, int]:
        """The largest that each part gets, and the peak, in bytes."""
        sizes = asdict(self)
        del sizes["accumulates"]
        return sizes | {"total": self.total}


@dataclass(frozen=True)
class Estimate:
    """What is needed to know the memory of any micro-batch.

    Attributes:
        gradients: bytes of what moves at a time.
        reference: the second copy of the model, where there is one.
        one, two: activations of one and of two rows; more rows follow the straight line.
        row_tokens: tokens of a full row.
        hidden: width of the hidden states.
        chunk: tokens whose logits exist at the same time.
        heap: share of all activations of a forward pass that the allocator loses.
    """

    weights: Weights
    optimizer: OptimizerState
    gradients: int
    reference: SecondCopy
    one: Activations
    two: Activations
    row_tokens: int
    vocabulary: int
    hidden: int
    chunk: int
    checkpointing: bool
    accumulates: bool
    runtime: int
    heap: float

    def memory(self, rows: float, checkpointing: bool | None = None) -> Memory:
        """The parts for micro-batches of `rows` full rows.

        Every token of a row is taken as supervised, which is the most that can be. Without a backward
        pass nothing is kept for it. A copy that leaves before the first step is there without
        gradients and optimizer state: the moment that needs more is the one that is given.
        """
        copy, leaves = self.reference.bytes, self.reference.leaves
        standing = 0 if leaves else copy
        train = self._backward if self.optimizer.uses_backward else self._forward_only
        steps = train(rows, checkpointing, standing)
        if not leaves:
            return steps
        before = self._forward_only(rows, checkpointing, copy)
        return max(steps, replace(before, optimizer=0, pageable=0), key=lambda m: m.least)

    def _backward(self, rows: float, checkpointing: bool | None, reference: int) -> Memory:
        """A step by gradients."""
        again = self.checkpointing if checkpointing is None else checkpointing
        kept = _line(self.one.kept(again), self.two.kept(again), rows)
        block = _line(self.one.block, self.two.block, rows) if again else 0
        largest = _line(self.one.largest, self.two.largest, rows)
        tokens = rows * self.row_tokens
        return Memory(
            weights=self.weights.base,
            adapter=self.weights.adapter,
            reference=reference,
            optimizer=self.optimizer.bytes,
            gradients=self.gradients,
            activations=kept,
            logits=self.logits(tokens),
            transient=block + TRANSIENT * largest + self.weights.dequantised,
            runtime=self.runtime,
            allocator=round(self.heap * _line(self.one.kept(), self.two.kept(), rows)),
            pageable=self.optimizer.pageable,
            accumulates=self.accumulates,
        )

    def _forward_only(self, rows: float, _: bool | None, reference: int) -> Memory:
        """Activations come and go; of the logits there are those of a chunk and their log-softmax."""
        tokens = rows * self.row_tokens
        logits = self.logits(tokens, copies=2)
        largest = _line(self.one.largest, self.two.largest, rows)
        return Memory(
            weights=self.weights.base,
            adapter=self.weights.adapter,
            reference=reference,
            optimizer=self.optimizer.bytes,
            gradients=0,
            activations=0,
            logits=logits,
            transient=TRANSIENT * largest + self.weights.dequantised,
            runtime=self.runtime,
            allocator=0,
            pageable=self.optimizer.pageable,
            accumulates=False,
        )

    def accumulating(self) -> Estimate:
        """The same job with gradients kept from one micro-batch to the next."""
        return replace(self, accumulates=True)

    def logits(self, tokens: float, copies: int = LOGIT_COPIES) -> int:
        """chunk x vocabulary x 4 bytes x copies, and hidden states of all supervised tokens, twice."""
        held = min(tokens, self.chunk) * self.vocabulary * FLOAT32 * copies
        return round(held + 2 * tokens * self.hidden * FLOAT32)

    def largest_rows(self, budget: float, checkpointing: bool | None = None) -> int:
        """The most full rows a micro-batch may have within `budget` bytes; 0 when not even one fits."""
        low, high = 0, 1
        while self.memory(high, checkpointing).least <= budget and high < MOST_ROWS:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.memory(middle, checkpointing).least <= budget
            low, high = (middle, high) if fits else (low, middle)
        return low


def _line(one: int, two: int, rows: float) -> int:
    """The straight line through the values at one and two rows, at `rows`."""
    return round(one + (rows - 1) * (two - one))
