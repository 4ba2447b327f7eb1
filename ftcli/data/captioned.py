"""Images with captions: `data` for models that draw what a text says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftcli.data import holdout
from ftcli.data.loader import Loader
from ftcli.data.pictures import picture
from ftcli.data.rows import Item
from ftcli.data.sources import Source, find, is_path
from ftcli.errors import Problems, UserError

COLUMNS = {"image": "image", "text": "text"}
SPLITS = ("train", "validation", "test")


@dataclass
class Captioned:
    """Rows with an image and a text: files with names and captions, or a hub data set.

    In a file the image is a path beside it; with a column `tile` it is a sheet of square images, and the
    tile's number on it. Images are cut to their middle square and scaled.
    """

    path: str  # asset:emoji, a file of rows, folder or glob, or a hub id
    size: int = 512  # edge of the images in pixels
    name: str | None = None  # configuration of a hub data set
    split: str = "train"  # which split of the source is trained on
    revision: str | None = None  # branch, tag or commit of a hub data set
    columns: dict[str, str] = field(default_factory=dict)  # image, text -> column
    validation: float | str | None = None  # share held out by caption, or a path or split
    test: str | None = None  # path or split that is judged at the end
    max_length: int = 77  # tokens of a caption; longer ones are cut, shorter ones padded
    limit: int | None = None  # read only the first rows of the training source

    def __post_init__(self) -> None:
        Problems.raise_if_any(list(self._contradictions()))
        self._prepared: dict[str, Captions] = {}
        self._sources: dict[str, Source] = {}

    def _contradictions(self) -> Iterator[UserError]:
        """What can be seen to be wrong before a row is read."""
        for key in self.columns:
            if key not in COLUMNS:
                yield UserError(f"'{key}' is neither image nor text.", where="data.columns")
        if isinstance(self.validation, float | int) and not 0 < self.validation < 1:
            yield UserError(
                f"a share of {self.validation} of the rows cannot be held out.",
                where="data.validation",
                fix="a number between 0 and 1, a path or split, or null",
            )

    @property
    def splits(self) -> list[str]:
        """The splits that are configured."""
        return [s for s in SPLITS if s == "train" or getattr(self, s) is not None]

    def examples(self, split: str = "train") -> Iterator[dict[str, Any]]:
        """`text`, `row` and `origin` of every row of a split; images are opened with a batch.

        Raises:
            UserError: a row has no image or no text.
        """
        names = COLUMNS | self.columns
        for item in self._mine(split):
            if isinstance(item, UserError):
                raise item
            for key, column in names.items():
                if not item.values.get(column):
                    raise _lacks(item, key, column)
            yield {
                "text": str(item.values[names["text"]]),
                "row": item.values,
                "origin": item.origin,
            }

    def prepare(self, split: str, tokenizer: Any, progress: Any = None) -> Captions:
        """The captions of a split as tokens, and where its images are.

        Raises:
            UserError: there is no such split, it is empty, or a row cannot be used.
        """
        if split not in self._prepared:
            examples = list(self.examples(split))
            if not examples:
                raise UserError(f"the split '{split}' of {self.path} is empty.", where="data")
            self._prepared[split] = Captions(self, examples, tokenizer, self._source(split))
        return self._prepared[split]

    def loader(
        self,
        split: str,
        tokenizer: Any,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> Loader:
        """Batches of a split: `rows`, `count`, `pixels` (bytes [B, 3, h, w]), `input_ids` [B, L] and
        the empty caption `empty` [L]."""
        captions: Any = self.prepare(split, tokenizer)
        order = {"seed": seed, "shuffle": shuffle, "rank": rank, "world": world}
        return _Batches(captions, batch_size, **order)  # type: ignore[arg-type]

    def describe(self, tokenizer: Any) -> dict[str, Any]:
        """What `data.json` keeps: source, counts, hashes."""
        figures = {s: self.prepare(s, tokenizer) for s in self.splits}
        return {
            **self._source("train").describe(),
            "fingerprint": figures["train"].fingerprint,
            "size": self.size,
            "splits": {
                s: {"rows": len(c), "fingerprint": c.fingerprint} for s, c in figures.items()
            },
        }

    def _mine(self, split: str) -> Iterator[Item]:
        """The rows of a split, those of a share decided by their captions."""
        place = getattr(self, split, None) if split != "train" else None
        shared = isinstance(self.validation, float | int)
        if split not in self.splits:
            raise UserError(f"the data have no split '{split}'.", where=f"data.{split}")
        if not shared or (split not in ("train", "validation")):
            yield from islice(self._source(split).rows(), None if place else self.limit)
            return
        column = (COLUMNS | self.columns)["text"]
        rows = list(islice(self._source("train").rows(), self.limit))
        texts = [str(r.values.get(column)) for r in rows if not isinstance(r, UserError)]
        below = holdout.threshold(float(self.validation or 0), texts)
        for item in rows:
            if isinstance(item, UserError):
                yield item
            elif (holdout.position(str(item.values.get(column))) < below) == (split != "train"):
                yield item

    def _source(self, split: str) -> Source:
        if split not in self._sources:
            self._sources[split] = self._open(split)
        return self._sources[split]

    def _open(self, split: str) -> Source:
        place = self.validation if split == "validation" else self.test
        if split == "train" or isinstance(place, float | int):
            return find(self.path, self.split, self.name, self.revision)
        if is_path(str(place)):
            return find(str(place), "train", self.name, self.revision)
        return self._source("train").other(str(place))


class Captions:
    """One prepared split: captions as tokens, images by their places.

    Attributes:
        lengths: 1 a row: an image is what a batch counts.
        fingerprint: content hash of rows, image files, size and tokens.
    """

    skipped = 0

    def __init__(
        self, data: Captioned, examples: list[dict[str, Any]], tokenizer: Any, source: Source
    ) -> None:
        self.rows = [example["row"] for example in examples]
        self.origins = [example["origin"] for example in examples]
        self.texts = [example["text"] for example in examples]
        self.size, self.column = data.size, (COLUMNS | data.columns)["image"]
        self.folder = Path(getattr(source, "paths", [Path(".")])[0]).parent
        self.length = data.max_length
        self.ids, self.empty = (self.tokens(tokenizer, texts) for texts in (self.texts, [""]))
        self.lengths = np.ones(len(self.rows), dtype=np.int64)
        self.fingerprint = self._hash(source)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def meta(self) -> dict[str, Any]:
        """What planning asks of a prepared split."""
        return {"supervised": len(self)}

    def origin(self, row: int) -> str:
        """File and line of a row."""
        return self.origins[row]

    def summary(self) -> str:
        """How many there are, for people."""
        return f"{len(self):,} images of {self.size} x {self.size} with captions"

    def sample(self, tokenizer: Any) -> str:
        """The first caption."""
        return f"{self.origins[0]}: {self.texts[0]}"

    def row(self, row: int) -> dict[str, Any]:
        """Tokens and image (bytes [3, h, w]) of a row."""
        values = self.rows[row]
        image = picture(values[self.column], values.get("tile"), self.folder, self.size)
        return {"input_ids": self.ids[row], "pixels": image}

    def tokens(self, tokenizer: Any, texts: list[str]) -> torch.Tensor:
        """Ids [n, length] of captions, cut or padded."""
        found = tokenizer(texts, truncation=True, max_length=self.length, padding="max_length")
        return torch.tensor(found["input_ids"], dtype=torch.int64)

    def batch(self, rows: list[int]) -> dict[str, Any]:
        """The tensors of these rows."""
        pixels = torch.stack([self.row(row)["pixels"] for row in rows])
        ids = self.ids[rows]
        return {"rows": list(rows), "count": len(rows), "pixels": pixels, "input_ids": ids,
                "empty": self.empty[0]}  # fmt: skip

    def _hash(self, source: Source) -> str:
        digest = hashlib.blake2b(source.content.encode(), digest_size=16)
        digest.update(f"{self.size} {self.origins}".encode())
        digest.update(self.ids.numpy().tobytes())
        names = {v[self.column] for v in self.rows if isinstance(v[self.column], str)}
        for name in sorted(names):
            digest.update(f"{name} {(self.folder / name).stat().st_size}".encode())
        return digest.hexdigest()


class _Batches(Loader):
    """A loader whose rows are images."""

    def batch(self, rows: Any) -> dict[str, Any]:
        """The tensors of these rows."""
        captions: Any = self.tokens
        return captions.batch(list(rows))


def _lacks(item: Any, key: str, column: str) -> UserError:
    has: Mapping[str, Any] = item.values
    return UserError(
        f"a row has no {key} in '{column}'; it has {', '.join(map(str, has))}.",
        where=item.origin,
        fix=f"data.columns.{key}=NAME of the column",
    )
