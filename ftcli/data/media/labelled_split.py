"""One split of labelled examples: decoded, augmented and batched."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.data.loader import Loader
from ftcli.data.media.items import Item

if TYPE_CHECKING:
    from ftcli.data.media.examples import Examples

Array = np.ndarray[Any, Any]
MEMORY = 256 * 2**20  # bytes of computed inputs that a split caches


class LabelledSplit:
    """The examples of one split.

    Attributes:
        labels: class number of each example, int64 [n].
    """

    skipped = 0

    def __init__(self, data: Examples, items: list[Item], names: list[str]) -> None:
        self.data, self.items, self.names = data, items, names
        self.processor: Any = None
        self._cached: dict[int, dict[str, Tensor]] = {}
        self._free_bytes = MEMORY
        numbers = {name: number for number, name in enumerate(names)}
        strange = next((item for item in items if item.label not in numbers), None)
        if strange is not None:
            raise UserError(
                f"class {strange.label!r} is not one of the {len(names)} classes of the training split.",
                where=strange.origin,
                fix="data.classes names those that are meant",
            )
        if not items:
            raise UserError(
                f"a split of {data.path} is empty.",
                where="data",
                fix="check data.classes, data.limit and the names of the splits",
            )
        self.labels = np.array([numbers[item.label] for item in items], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def lengths(self) -> Array:
        """Ones, int64 [n]: a batch counts examples."""
        return np.ones(len(self), dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the contents and classes, in order."""
        digest = hashlib.blake2b(digest_size=16)
        for item in self.items:
            digest.update(f"{item.digest}\0{item.label}\0".encode())
        return digest.hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """Examples of each class."""
        return dict(Counter(item.label for item in self.items))

    @property
    def meta(self) -> dict[str, Any]:
        """Counts that planning reads of a prepared split."""
        return {"supervised": len(self)}

    def origin(self, index: int) -> str:
        """File and row of an example."""
        return self.items[index].origin

    def summary(self) -> str:
        """One line with the number of examples and classes."""
        return f"{len(self):,} examples of {len(self.names)} classes"

    def sample(self, processor: Any) -> str:
        """Return origin and class of the first example."""
        return f"{self.items[0].origin}: {self.items[0].label}"

    def view(self, row: int, seed: int, epoch: int | None) -> Array:
        """Return one decoded example, augmented where an epoch is given."""
        example = self.data.decode(self.items[row], self.processor)
        if epoch is None:
            return example
        random = np.random.default_rng([seed, epoch, row])
        return self.data.augment(example, random, self.processor)

    def batch(self, rows: Sequence[int], seed: int = 0, epoch: int | None = None) -> dict[str, Any]:
        """Return the model's inputs, labels int64 [B], row numbers, and `num_supervised`, the number of examples."""
        augmented = epoch is not None and self.data.augments
        inputs = self._compute_inputs(rows, seed, epoch) if augmented else self._reuse_inputs(rows)
        if epoch is not None:
            randoms = [np.random.default_rng([seed, epoch, row, 1]) for row in rows]
            inputs = self.data.mask(inputs, randoms)
        labels = torch.from_numpy(self.labels[list(rows)])
        return {
            "inputs": inputs,
            "labels": labels,
            "indices": list(rows),
            "num_supervised": len(rows),
        }

    def _compute_inputs(
        self, rows: Sequence[int], seed: int, epoch: int | None
    ) -> dict[str, Tensor]:
        views = [self.view(row, seed, epoch) for row in rows]
        return self.data.tensors(views, self.processor)

    def _reuse_inputs(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return inputs without augmentation, cached up to `MEMORY` bytes.

        Inputs of different shapes are computed together, because padding depends on the batch.
        """
        all_inputs = [self._cached.get(row) or self._compute_inputs([row], 0, None) for row in rows]
        for row, inputs in zip(rows, all_inputs, strict=True):
            if row not in self._cached and self._free_bytes > 0:
                self._cached[row] = inputs
                self._free_bytes -= sum(tensor.nbytes for tensor in inputs.values())
        if len({tuple(t.shape for t in inputs.values()) for inputs in all_inputs}) > 1:
            return self._compute_inputs(rows, 0, None)
        return {name: torch.cat([inputs[name] for inputs in all_inputs]) for name in all_inputs[0]}


class Rows(list[int]):
    """Row numbers of a batch and their epoch, which seeds the augmentation."""

    def __init__(self, rows: Sequence[int], epoch: int) -> None:
        super().__init__(rows)
        self.epoch = epoch


class ExampleLoader(Loader):
    """Batches of examples, in the order of text rows of equal length."""

    def __init__(
        self,
        examples: LabelledSplit,
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int,
        world: int,
        augmented: bool,
    ) -> None:
        order = {"seed": seed, "shuffle": shuffle, "rank": rank, "world": world}
        super().__init__(examples, batch_size, "flat", **order)  # type: ignore[arg-type]
        self.examples, self.augmented = examples, augmented

    def list_batch_indices(self, epoch: int) -> list[list[int]]:
        """Row numbers of each batch of an epoch."""
        return [Rows(rows, epoch) for rows in super().list_batch_indices(epoch)]

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return the tensors of rows; see `LabelledSplit.batch`. Plain lists of rows count as epoch 0."""
        epoch = getattr(rows, "epoch", 0) if self.augmented else None
        return self.examples.batch(rows, self.seed, epoch)
