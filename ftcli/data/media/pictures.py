"""Load images as uint8 tensors from a file, a tile of a sheet or an opened image; draw grids of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ftcli.core.errors import UserError

SHEETS = 16  # decoded sheets that are cached
ACROSS = 16  # tiles in a row of a sheet


def load_picture(
    image: str | Image.Image | Callable[[], bytes], tile: int | None, folder: Path, size: int
) -> torch.Tensor:
    """Load an image as uint8 [3, size, size]: its middle square, scaled to that size.

    Args:
        image: a path under `folder`, a PIL image, or a function that returns an encoded file.
        tile: number of the tile on a sheet; None: the whole image.
        size: edge of the result in pixels.

    Raises:
        UserError: there is no such image, or no such tile.
    """
    if isinstance(image, str):
        opened = _open_sheet(folder / image) if tile is not None else _open(folder / image)
    elif callable(image):
        opened = Image.open(io.BytesIO(image()))
    else:
        opened = image
    if tile is not None:
        opened = _cut_tile(opened, tile, f"{image}")
    edge = min(opened.size)
    left, top = (opened.width - edge) // 2, (opened.height - edge) // 2
    square = opened.convert("RGB").crop((left, top, left + edge, top + edge))
    if edge != size:
        square = square.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def draw_grid(images: torch.Tensor, columns: int, gap: int = 2, scale: int = 1) -> Image.Image:
    """Draw images uint8 [n, 3, h, w] as a grid on white, row by row.

    Args:
        gap: pixels between images.
        scale: factor by which the grid is enlarged.
    """
    count, _, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[y : y + height, x : x + width] = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(sheet)
    size = (picture.width * scale, picture.height * scale)
    return picture.resize(size, Image.Resampling.NEAREST)


def to_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """Convert pixels in [-1, 1] to uint8, on the CPU."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu()


@lru_cache(maxsize=SHEETS)
def _open_sheet(path: Path) -> Image.Image:
    return _open(path)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path} cannot be opened as an image: {error}", where="data") from error
    return image


def _cut_tile(sheet: Image.Image, tile: int, name: str) -> Image.Image:
    """Cut one square from a sheet that is `ACROSS` squares wide."""
    edge = sheet.width // ACROSS
    count = ACROSS * (sheet.height // edge)
    if not 0 <= tile < count:
        raise UserError(f"{name} has {count} tiles, none is number {tile}.", where="data")
    x, y = (tile % ACROSS) * edge, (tile // ACROSS) * edge
    return sheet.crop((x, y, x + edge, y + edge))
