"""The `data` option for labelled images or sounds: splits, folds, augmentation, batches."""

from __future__ import annotations

import fnmatch
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from ftcli.core.errors import Problems, UserError
from ftcli.data.media import holdout
from ftcli.data.media.items import Item
from ftcli.data.media.labelled_split import Array, ExampleLoader, LabelledSplit
from ftcli.data.media.sources import Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ftcli.data.media.sheet import ExamplePreview


@dataclass
class Examples(ABC):
    """Labelled images or sounds, turned into tensors by the processor of the model.

    Which rows are held out, in which order they come and how they are augmented are pure functions of
    content, seed and epoch, so that a resumed run sees the same batches as an uninterrupted one.
    """

    path: str  # folder of class folders, zip of them, .npz, .jsonl with `path`, asset:NAME, hub id
    split: str | None = "train"  # split that is trained on; null: all of it (of a hub id: train)
    label: str | None = None  # array or column with the class; null: labels, or label of a table
    group: str | None = None  # array or column whose values stay in one split, such as a speaker
    pattern: str | None = None  # finds (?P<label>..) and perhaps (?P<group>..) in a file's name
    array: str | None = None  # array or column with the examples; null: the only one there is
    classes: list[str] | None = None  # patterns of class names, in their order; null: all, sorted
    validation: float | str | None = None  # share held out, or a split or path
    test: str | None = None  # split or path that is evaluated at the end
    folds: int | None = None  # cut the training split into so many parts, one of them validation
    fold: int = 0  # number of the validation fold, from 0 (modulo folds)
    shots: int | None = None  # examples of each class that are trained on; null: all
    limit: int | None = None  # so many rows of the training source, evenly spread over it
    seed: int = 0  # seed of the held-out share, the folds and the shots

    #: Endings of the files that are read.
    suffixes: ClassVar[tuple[str, ...]] = ()
    packing: ClassVar[str] = "none"  # each example is a row of its own
    max_length: ClassVar[int] = 1

    def __post_init__(self) -> None:
        Problems.raise_if_any(list(self._find_contradictions()))
        self._prepared: dict[str, LabelledSplit] = {}

    def _find_contradictions(self) -> Iterator[UserError]:
        if isinstance(self.validation, float | int) and not 0 < self.validation < 1:
            yield UserError(
                f"a share of {self.validation} of the rows cannot be held out.",
                where="data.validation",
                fix="a number between 0 and 1, a split or path, or null",
            )
        for name in ("validation", "test"):
            place = getattr(self, name)
            if self.split is None and isinstance(place, str) and re.fullmatch(r"\w+", place):
                yield UserError(
                    f"data.split=null trains on the whole source, which includes the split '{place}'.",
                    where=f"data.{name}",
                    fix="data.split=train, or a path of its own, a share or folds to judge by",
                )
        if self.folds is not None and self.validation is not None:
            yield UserError(
                "the validation split is one of the folds, so it cannot be something else too.",
                where="data.validation",
                fix="data.validation=null or data.folds=null",
            )
        for name, least in (("folds", 2), ("shots", 1), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                yield UserError(f"{value} is too small.", f"data.{name}", f"{least} is the least")

    @abstractmethod
    def decode(self, item: Item, processor: Any) -> Array:
        """Decode an example, before augmentation.

        Raises:
            UserError: it cannot be read; the error names file and row.
        """

    @property
    @abstractmethod
    def augments(self) -> bool:
        """Whether `augment` changes examples; inputs of unchanged examples are computed once."""

    @abstractmethod
    def augment(self, example: Array, random: np.random.Generator, processor: Any) -> Array:
        """Return a random variant of an example."""

    @abstractmethod
    def tensors(self, examples: Sequence[Array], processor: Any) -> dict[str, Tensor]:
        """Return the model's inputs for a batch, by argument name."""

    @abstractmethod
    def show(self, axis: Axes, example: Array, processor: Any) -> None:
        """Draw one example, as the model gets it, on a matplotlib axis."""

    def mask(
        self, inputs: dict[str, Tensor], randoms: Sequence[np.random.Generator]
    ) -> dict[str, Tensor]:
        """Augment the inputs of a batch; one random generator a row."""
        return inputs

    def preview(self, split: str, processor: Any, count: int, to: Path) -> list[ExamplePreview]:
        """Draw the first examples into an image file; return a description of each."""
        from ftcli.data.media.sheet import draw

        return draw(self, processor, count, split, to)

    @property
    def splits(self) -> list[str]:
        """The splits that are configured."""
        held = self.validation is not None or self.folds is not None
        return ["train", *(["validation"] if held else []), *(["test"] if self.test else [])]

    @property
    def names(self) -> list[str]:
        """Class names, in the order of their numbers."""
        names = sorted(
            {item.label for item in self._items(self.split, self.limit)}, key=_natural_key
        )
        if self.classes is None:
            return names
        chosen = [n for pattern in self.classes for n in names if fnmatch.fnmatchcase(n, pattern)]
        return list(dict.fromkeys(chosen))

    def prepare(self, split: str, processor: Any) -> LabelledSplit:
        """Return the examples of a split.

        Raises:
            UserError: there is no such split, it is empty, or has a class that the training split lacks.
        """
        if split not in self._prepared:
            self._prepared[split] = LabelledSplit(self, self._select_split(split), self.names)
        examples = self._prepared[split]
        examples.processor = processor
        return examples

    def loader(
        self,
        split: str,
        processor: Any,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> ExampleLoader:
        """Return the batches of a split; those of a shuffled training split are augmented."""
        return ExampleLoader(
            self.prepare(split, processor), batch_size, seed, shuffle, rank, world,
            augmented=shuffle and split == "train",
        )  # fmt: skip

    def examples(self, split: str = "train") -> Iterator[dict[str, Any]]:
        """Yield label, group and origin of each example, without reading it."""
        for item in self._select_split(split):
            known = {"label": item.label} | ({"group": item.group} if item.group else {})
            yield known | {"row": known, "origin": item.origin}

    def describe(self, processor: Any) -> dict[str, Any]:
        """Return the content of `data.json`: source, licence, classes, counts and fingerprints."""
        prepared = {split: self.prepare(split, processor) for split in self.splits}
        return {
            "path": self.path,
            "licence": self._source(self.path).licence,
            "fingerprint": prepared["train"].fingerprint,
            "classes": self.names,
            "splits": {
                split: {"rows": len(rows), "fingerprint": rows.fingerprint, "labels": rows.counts}
                for split, rows in prepared.items()
            },
        }

    def _select_split(self, split: str) -> list[Item]:
        train = self._filter_classes(self._items(self.split, self.limit))
        held = self._select_held_out(train)
        if split == "train":
            kept = [item for item in train if holdout.item_key(item) not in held]
            return kept if self.shots is None else holdout.take_shots(kept, self.shots, self.seed)
        if split == "validation" and held:
            return [item for item in train if holdout.item_key(item) in held]
        place = {"validation": self.validation, "test": self.test}.get(split)
        if place is None or isinstance(place, float):
            raise UserError(
                f"the data have no split '{split}'.",
                where=f"data.{split}",
                fix=f"set data.{split} to a split or path"
                + (", a share such as 0.1, or set data.folds" if split == "validation" else ""),
            )
        return self._filter_classes(self._items(str(place), None))

    def _select_held_out(self, train: list[Item]) -> set[str]:
        if self.folds is not None:
            return holdout.select_fold(train, self.fold % self.folds, self.folds, self.seed)
        if isinstance(self.validation, float):
            return holdout.select_share(train, self.validation, self.seed)
        return set()

    def _filter_classes(self, items: list[Item]) -> list[Item]:
        if self.classes is None:
            return items
        known = set(self.names)
        return [item for item in items if item.label in known]

    def _items(self, split: str | None, limit: int | None) -> list[Item]:
        """Return the items of a split of the source, of the whole source, or of another path."""
        source = self._source(self.path)
        if split is None:
            return _spread_rows(source.items, limit)
        if any(item.split == split for item in source.items):
            return _spread_rows([item for item in source.items if item.split == split], limit)
        if split == "train" and not any(item.split for item in source.items):
            return _spread_rows(source.items, limit)
        if "/" in split or "." in split or ":" in split:
            return self._source(split).items
        there = sorted({item.split for item in source.items if item.split}) or ["train"]
        raise UserError(
            f"{self.path} has no split '{split}'; it has {', '.join(there)}.", where="data"
        )

    def _source(self, path: str) -> Source:
        known: dict[str, Source] = self.__dict__.setdefault("_sources", {})
        if path not in known:
            named = [s for s in (self.validation, self.test) if isinstance(s, str)]
            splits = [self.split or "train", *(s for s in named if re.fullmatch(r"\w+", s))]
            known[path] = Source(
                path, self.suffixes, self.label, self.group, self.pattern, self.array, splits
            )
        return known[path]


def _spread_rows(items: list[Item], limit: int | None) -> list[Item]:
    """Take `limit` evenly spaced items: sources are often sorted by class."""
    if limit is None or limit >= len(items):
        return items
    return [items[row * len(items) // limit] for row in range(limit)]


def _natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key that orders numbers in names by value, and before words."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]
