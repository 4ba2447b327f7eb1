"""Draw examples as the model sees them, with their classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ftcli.data.media.examples import Examples

ACROSS = 4  # examples in a row of the sheet


@dataclass(frozen=True)
class ExamplePreview:
    """One example as the model sees it.

    Attributes:
        origin: file and row.
        label: name of its class.
        input: name and shape of the input.
        least, most: smallest and largest value of the input.
    """

    origin: str
    label: str
    input: str
    least: float
    most: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.origin}  {self.label}  {self.input}, {self.least:.2f} to {self.most:.2f}"


def draw(
    data: Examples, processor: Any, count: int, split: str, to: Path, seed: int = 0
) -> list[ExamplePreview]:
    """Draw the first batch of a split, augmented as in training, into an image file.

    Args:
        count: number of examples.
        to: a .png or .svg file.

    Returns:
        A description of each example that is shown.
    """
    from matplotlib.figure import Figure

    training = split == "train"
    loader = data.loader(split, processor, count, seed=seed, shuffle=training)
    batch = loader.batch(loader.list_batch_indices(0)[0])
    (name, inputs), *_ = batch["inputs"].items()
    down = -(-len(inputs) // ACROSS)
    figure = Figure(figsize=(3 * ACROSS, 2.6 * down), layout="constrained")
    axes = figure.subplots(down, ACROSS, squeeze=False).flatten()
    seen = []
    for axis, example, row in zip(axes, inputs.numpy(), batch["indices"], strict=False):
        item = loader.examples.items[row]
        data.show(axis, example, processor)
        axis.set_title(item.label, fontsize=9)
        shape = f"{name} {list(example.shape)}"
        seen.append(
            ExamplePreview(
                item.origin, item.label, shape, float(example.min()), float(example.max())
            )
        )
    for axis in axes[len(inputs) :]:
        axis.remove()
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, dpi=110)
    return seen


def stretch_range(example: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scale values to [0, 1] and put channels last: [C, H, W] -> [H, W, C]."""
    low, high = example.min(), example.max()
    return np.moveaxis((example - low) / max(high - low, 1e-9), 0, -1)
