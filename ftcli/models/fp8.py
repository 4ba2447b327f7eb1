"""Checkpoints in FP8 with a scale a block: whether transformers can turn them back into plain weights."""

from __future__ import annotations

from typing import Any

from ftcli.core.errors import UserError
from ftcli.models.state_dict_check import Shapes

SCALES = (
    "_scale_inv"  # behind the name of a weight: its scales, [rows of blocks, columns of blocks]
)


def refuse_cut_blocks(name: str, options: Any, shapes: Shapes) -> None:
    """Check that weights which are dequantised while they are loaded consist of whole blocks.

    A GPU multiplies in FP8; elsewhere transformers dequantises. It takes the size of a block to be the size of the
    weight divided by the number of scales, not `weight_block_size`: with a last block that is cut off it fails where
    that leaves a remainder, and multiplies rows with the scales of others where it does not (seen with 5.24).

    Args:
        name: name of the model, for the message.
        options: transformers' FineGrainedFP8Config, after it was fitted to the device.
        shapes: of the tensors in the files, by name.

    Raises:
        UserError: a block is cut off.
    """
    block = options.weight_block_size
    if not options.dequantize or block is None:  # None: one scale for a whole weight
        return
    for key, shape in shapes.items():
        scales = shapes.get(f"{key}{SCALES}", ())
        if any(map(_is_cut, shape[-2:], scales[-2:], block)):
            size, whole = (" x ".join(map(str, sizes)) for sizes in (shape, block))
            raise UserError(
                f"{name} is stored quantised (fp8), which cannot be dequantised here: "
                f"{key} of {size} does not consist of whole blocks of {whole}.",
                where="model.path",
                fix="model.path=the checkpoint before it was quantised",
            )


def _is_cut(size: int, scales: int, block: int) -> bool:
    """Whether a weight with this number of scales along one side does not consist of equal parts."""
    last_is_smaller = scales > 1 and scales == -(-size // block) and size % block > 0
    return size % scales > 0 or last_is_smaller
