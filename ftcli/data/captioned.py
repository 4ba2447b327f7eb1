"""The `data` option for images with captions, which text-to-image models train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ftcli.core.errors import Problems, UserError
from ftcli.data.loader import Loader
from ftcli.data.media.captions import COLUMNS, CaptionLoader, Captions
from ftcli.data.media.hub import read_encoded_images
from ftcli.data.media.pictures import draw_grid
from ftcli.data.rows import RawRow, RowOrError
from ftcli.data.sources import Source, find_source, is_path
from ftcli.data.sources.hub import Hub
from ftcli.data.split import find_threshold, hash_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftcli.data.statistics import RowCounts

SPLITS = ("train", "validation", "test")
ACROSS = 8  # images in a row of a preview


@dataclass(frozen=True)
class CaptionPreview:
    """Origin (file and line) and caption of an image in a preview."""

    origin: str
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.origin}  {self.text}"


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
    columns: dict[str, str | None] = field(
        default_factory=dict
    )  # image, text -> column; text: null leaves every caption empty
    validation: float | str | None = None  # share held out by caption, or a path or split
    test: str | None = None  # path or split that is evaluated at the end
    max_length: int = 77  # tokens of a caption; longer ones are cut, shorter ones padded
    limit: int | None = None  # read only the first rows of the training source
    packing: ClassVar[str] = "none"  # each image is a row of its own

    def __post_init__(self) -> None:
        Problems.raise_if_any(list(self._find_contradictions()))
        self._prepared: dict[str, Captions] = {}
        self._sources: dict[str, Source] = {}

    def _find_contradictions(self) -> Iterator[UserError]:
        """Errors in the configuration that show before a row is read."""
        for key in self.columns:
            if key not in COLUMNS:
                yield UserError(f"'{key}' is neither image nor text.", where="data.columns")
        if not self.names["image"]:
            yield UserError("no column is named for the images.", where="data.columns.image")
        if isinstance(self.validation, float | int) and not 0 < self.validation < 1:
            yield UserError(
                f"a share of {self.validation} of the rows cannot be held out.",
                where="data.validation",
                fix="a number between 0 and 1, a path or split, or null",
            )

    @property
    def names(self) -> dict[str, str | None]:
        """Field (image, text) -> the column that it is read from."""
        return COLUMNS | self.columns

    @property
    def splits(self) -> list[str]:
        """The splits that are configured."""
        return [s for s in SPLITS if s == "train" or getattr(self, s) is not None]

    def examples(self, split: str = "train") -> Iterator[dict[str, Any]]:
        """`text`, `row` and `origin` of every row of a split; images are opened when a batch is made.

        Raises:
            UserError: a row has no image or no text.
        """
        for item in self._select_rows(split):
            if isinstance(item, UserError):
                raise item
            for key, column in self.names.items():
                if column and not item.values.get(column):
                    raise _missing_value_error(item, key, column)
            yield {"text": self._caption(item), "row": item.values, "origin": item.origin}

    def prepare(
        self,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        progress: Callable[[RowCounts], None] | None = None,
    ) -> Captions:
        """Tokenise the captions of a split and locate its images.

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
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> Loader:
        """Return the batches of a split.

        A batch has `inputs` (`pixels` uint8 [B, 3, h, w] and `input_ids` int64 [B, L]), the tokens of the
        empty caption `empty` int64 [L], `rows` and `count`.
        """
        captions: Any = self.prepare(split, tokenizer)
        order = {"seed": seed, "shuffle": shuffle, "rank": rank, "world": world}
        return CaptionLoader(captions, batch_size, **order)  # type: ignore[arg-type]

    def preview(
        self, split: str, tokenizer: PreTrainedTokenizerBase, count: int, to: Path
    ) -> list[CaptionPreview]:
        """Write the first images of a split to an image file; return their captions."""
        captions = self.prepare(split, tokenizer)
        rows = range(min(count, len(captions)))
        images = captions.batch(list(rows))["inputs"]["pixels"]
        draw_grid(images, min(len(images), ACROSS), scale=max(1, 128 // self.size)).save(to)
        return [CaptionPreview(captions.origins[row], captions.texts[row]) for row in rows]

    def describe(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Return the content of `data.json`: source, counts, hashes."""
        figures = {s: self.prepare(s, tokenizer) for s in self.splits}
        return {
            **self._source("train").describe(),
            "fingerprint": figures["train"].fingerprint,
            "size": self.size,
            "splits": {
                s: {"rows": len(c), "fingerprint": c.fingerprint} for s, c in figures.items()
            },
        }

    def _select_rows(self, split: str) -> Iterator[RowOrError]:
        """Read the rows of a split; which rows are held out is decided by their captions."""
        place = getattr(self, split, None) if split != "train" else None
        shared = isinstance(self.validation, float | int)
        if split not in self.splits:
            raise UserError(f"the data have no split '{split}'.", where=f"data.{split}")
        if not shared or (split not in ("train", "validation")):
            yield from islice(self._read_rows(split), None if place else self.limit)
            return
        rows = list(islice(self._read_rows("train"), self.limit))
        keys = [
            r.origin if isinstance(r, UserError) else self._caption(r) or r.origin for r in rows
        ]
        below = find_threshold(float(self.validation or 0), keys)
        for item, key in zip(rows, keys, strict=True):
            if isinstance(item, UserError) or (hash_prompt(key) < below) == (split != "train"):
                yield item

    def _caption(self, row: RawRow) -> str:
        column = self.names["text"]
        return str(row.values.get(column, "")) if column else ""

    def _read_rows(self, split: str) -> Iterator[RowOrError]:
        """Read all rows of a split's source; images of a hub data set stay encoded until a batch needs them."""
        source = self._source(split)
        if isinstance(source, Hub):
            return read_encoded_images(source, str(self.names["image"]))
        return source.rows()

    def _source(self, split: str) -> Source:
        if split not in self._sources:
            self._sources[split] = self._open(split)
        return self._sources[split]

    def _open(self, split: str) -> Source:
        place = self.validation if split == "validation" else self.test
        if split == "train" or isinstance(place, float | int):
            return find_source(self.path, self.split, self.name, self.revision)
        if is_path(str(place)):
            return find_source(str(place), "train", self.name, self.revision)
        return self._source("train").open_split(str(place))


def _missing_value_error(item: RawRow, key: str, column: str) -> UserError:
    has: Mapping[str, Any] = item.values
    return UserError(
        f"a row has no {key} in '{column}'; it has {', '.join(map(str, has))}.",
        where=item.origin,
        fix=f"data.columns.{key}=NAME of the column",
    )
