"""The batch layout of a run: packing, attention, and how documents of a batch are isolated from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Packing = Literal["flat", "bins", "none"]
DocumentIsolation = Literal["attention", "reset_state", "one_row_per_forward"]
#: Value of `reading` in proof.json of 0.1.0 -> value of `document_isolation`.
READINGS: dict[str, DocumentIsolation] = {
    "plain": "attention", "reset": "reset_state", "alone": "one_row_per_forward",
}  # fmt: skip


@dataclass(frozen=True)
class BatchLayout:
    """How batches are laid out for a model, as selected by `ftcli.models.batch_layout_check`.

    Attributes:
        packing: how rows share a batch.
        attention: documents is that of `ftcli.models.attention`, library the one that transformers chooses.
        document_isolation: attention: only attention separates documents. reset_state: the model also gets
            seq_idx and cu_seqlens, so that recurrent layers restart at each document. one_row_per_forward:
            the model gets each row of a batch in its own forward pass.
        reason: why the layout that was tried first is not used; empty where it is.
    """

    packing: Packing
    attention: Literal["documents", "library"] = "documents"
    document_isolation: DocumentIsolation = "attention"
    reason: str = ""

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> BatchLayout:
        """Build the layout from the content of proof.json, also where version 0.1.0 wrote it."""
        values = dict(record)
        if "reading" in values:
            values["document_isolation"] = READINGS[values.pop("reading")]
        return cls(**values)
