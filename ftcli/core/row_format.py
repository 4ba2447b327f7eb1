"""The format in which a model is given the rows of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Packing = Literal["flat", "bins", "none"]
Reading = Literal["plain", "reset", "alone"]


@dataclass(frozen=True)
class RowFormat:
    """The format in which a model is given its rows, as measured by `ftcli.models.row_format_check`.

    Attributes:
        packing: how rows share a batch.
        attention: documents is that of `ftcli.models.attention`, library the one that transformers chooses.
        reading: reset passes the documents' numbers and bounds to recurrent layers; alone gives the
            model each row of a batch by itself.
        reason: why the format that was tried first is not used; empty where it is.
    """

    packing: Packing
    attention: Literal["documents", "library"] = "documents"
    reading: Reading = "plain"
    reason: str = ""
