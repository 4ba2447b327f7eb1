"""A prepared split of images with captions, and its batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftcli.core.errors import UserError
from ftcli.data.loader import Loader
from ftcli.data.media.pictures import load_picture
from ftcli.data.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftcli.data.captioned import Captioned

#: Field of a row -> its default column.
COLUMNS = {"image": "image", "text": "text"}


class Captions:
    """One prepared split: captions as tokens, images by their paths.

    Attributes:
        lengths: ones, int64 [n]: a batch counts images.
        fingerprint: content hash of rows, image files, size and tokens.
    """

    skipped = 0

    def __init__(
        self,
        data: Captioned,
        examples: list[dict[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        source: Source,
    ) -> None:
        self.rows = [example["row"] for example in examples]
        self.origins = [example["origin"] for example in examples]
        self.texts = [example["text"] for example in examples]
        self.size, self.column = data.size, str(data.names["image"])
        self.folder = Path(getattr(source, "paths", [Path(".")])[0]).parent
        self.length = check_length(data.max_length, tokenizer)
        self.ids, self.empty = (self.encode(tokenizer, texts) for texts in (self.texts, [""]))
        self.lengths = np.ones(len(self.rows), dtype=np.int64)
        self.fingerprint = self._hash(source)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images; they have no classes."""
        return {"image": len(self)}

    @property
    def meta(self) -> dict[str, Any]:
        """Counts that planning reads of a prepared split."""
        return {"supervised": len(self)}

    def origin(self, row: int) -> str:
        """File and line of a row."""
        return self.origins[row]

    def summary(self) -> str:
        """One line with the number and size of the images."""
        return f"{len(self):,} images of {self.size} x {self.size} with captions"

    def sample(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return the first caption with its origin."""
        return f"{self.origins[0]}: {self.texts[0]}"

    def row(self, row: int) -> dict[str, Any]:
        """Return the tokens int64 [L] and the image uint8 [3, h, w] of a row."""
        values = self.rows[row]
        image = load_picture(values[self.column], values.get("tile"), self.folder, self.size)
        return {"input_ids": self.ids[row], "pixels": image}

    def encode(self, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> torch.Tensor:
        """Token ids int64 [n, length] of captions, cut or padded."""
        encoded = tokenizer(texts, truncation=True, max_length=self.length, padding="max_length")
        return torch.tensor(encoded["input_ids"], dtype=torch.int64)

    def batch(self, rows: list[int]) -> dict[str, Any]:
        """Return the tensors of rows; see `Captioned.loader`."""
        pixels = torch.stack([self.row(row)["pixels"] for row in rows])
        ids = self.ids[rows]
        inputs = {"pixels": pixels, "input_ids": ids}
        return {
            "inputs": inputs,
            "empty": self.empty[0],
            "indices": list(rows),
            "num_supervised": len(rows),
        }

    def _hash(self, source: Source) -> str:
        digest = hashlib.blake2b(source.content_hash.encode(), digest_size=16)
        digest.update(f"{self.size} {self.origins}".encode())
        digest.update(self.ids.numpy().tobytes())
        names = {v[self.column] for v in self.rows if isinstance(v[self.column], str)}
        for name in sorted(names):
            digest.update(f"{name} {(self.folder / name).stat().st_size}".encode())
        return digest.hexdigest()


def check_length(length: int, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the length of captions in tokens.

    Raises:
        UserError: the text encoder reads fewer tokens.
    """
    most = tokenizer.model_max_length
    if length > most:
        raise UserError(
            f"data.max_length={length}, but the text encoder reads at most {most} tokens.",
            where="data.max_length",
            fix=f"data.max_length={most}",
        )
    return length


class CaptionLoader(Loader):
    """A loader whose rows are images."""

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return the tensors of rows; see `Captions.batch`."""
        captions: Any = self.prepared
        return captions.batch(list(rows))
