"""Labelled images: files that Pillow reads, or arrays."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.data.media.examples import Array, Examples
from ftcli.data.media.items import Item
from ftcli.data.media.sheet import stretch_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class Images(Examples):
    """Images as uint8 [H, W, 3]; the model's processor resizes and normalises them."""

    crop: int = 0  # augment: shift by up to so many pixels, filled with the colour of the edge
    flip: bool = False  # augment: mirror every second image
    suffixes: ClassVar[tuple[str, ...]] = (
        ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff",
    )  # fmt: skip

    def decode(self, item: Item, processor: Any) -> Array:
        """Decode an image to uint8 [H, W, 3]; grey images get three equal channels.

        Raises:
            UserError: the item is not an image.
        """
        content = item.read()
        return (
            _check_array(content, item)
            if isinstance(content, np.ndarray)
            else _open_image(content, item)
        )

    @property
    def augments(self) -> bool:
        """Whether images are shifted or mirrored."""
        return self.flip or self.crop > 0

    def augment(self, example: Array, random: np.random.Generator, processor: Any) -> Array:
        """Shift and mirror an image as `crop` and `flip` say."""
        if self.flip and random.random() < 0.5:
            example = example[:, ::-1]
        if self.crop:
            down, right = random.integers(0, 2 * self.crop + 1, 2)
            height, width = example.shape[:2]
            around = ((self.crop, self.crop), (self.crop, self.crop), (0, 0))
            padded = np.pad(example, around, mode="edge")
            example = padded[down : down + height, right : right + width]
        return np.ascontiguousarray(example)

    def tensors(self, examples: Sequence[Array], processor: Any) -> dict[str, Tensor]:
        """Return {"pixel_values": float32 [B, channels, height, width]}."""
        inputs = processor(images=list(examples), return_tensors="pt")
        return {"pixel_values": inputs["pixel_values"]}

    def show(self, axis: Axes, example: Array, processor: Any) -> None:
        """Draw an image, its values scaled to the full range."""
        axis.imshow(stretch_range(example), interpolation="nearest")
        axis.set_axis_off()


def _check_array(content: Array, item: Item) -> Array:
    channels = content.shape[2] if content.ndim == 3 else 1
    if content.dtype != np.uint8 or content.ndim not in (2, 3) or channels not in (1, 3):
        raise UserError(
            f"{content.dtype} of shape {list(content.shape)} is no image.",
            where=item.origin,
            fix="uint8 [H, W], [H, W, 1] or [H, W, 3]",
        )
    image = content[..., None] if content.ndim == 2 else content
    return np.repeat(image, 3, axis=2) if channels == 1 else image


def _open_image(content: bytes, item: Item) -> Array:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(
            f"this file is no image that can be read: {error}",
            where=item.origin,
            fix="repair or delete the file",
        ) from error
