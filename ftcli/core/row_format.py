"""How the rows of a run reach its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Packing = Literal["flat", "bins", "none"]
Reading = Literal["plain", "reset", "alone"]


@dataclass(frozen=True)
class RowFormat:
    """How a model is given its rows, as measured by `ftcli.models.proof`.

    Attributes:
        packing: how rows share a batch.
        attention: documents is that of `ftcli.models.attention`; library what transformers takes.
        reading: reset hands the documents' numbers and bounds to recurrent layers; alone gives the
            model each row of a batch by itself.
        reason: why it is not what was tried first; empty where it is.
    """

    packing: Packing
    attention: Literal["documents", "library"] = "documents"
    reading: Reading = "plain"
    reason: str = ""
