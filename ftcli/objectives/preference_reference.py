"""Precomputed log-probabilities of whole splits under the reference, stored in checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftcli.objectives.reference import Reference

if TYPE_CHECKING:
    from ftcli.core.run import Run

#: Model and batch of P pairs -> log pi(y|x) of their answers [P, 2].
Score = Callable[[nn.Module, dict[str, Any]], Tensor]


class ReferenceScores:
    """log pi_ref(y|x) of every answer of a split, indexed by the number of its document.

    They are part of a checkpoint, so that a resumed run does not compute them again.

    Args:
        run: the run whose data are scored.
        reference: the reference model.
        score: computes a model's log-probabilities of a batch.
    """

    def __init__(self, run: Run, reference: Reference, score: Score) -> None:
        self.run, self.reference, self.score = run, reference, score
        self._tables: dict[str, Tensor] = {}
        self._fingerprints: dict[str, str] = {}

    def for_split(self, split: str) -> Tensor:
        """Return log-probabilities [documents] float32; computed at the first call and when rows changed."""
        fingerprint = self.run.data.prepare(split, self.run.tokenizer).fingerprint
        if self._fingerprints.get(split) != fingerprint:
            self._tables[split] = self._compute_table(split)
            self._fingerprints[split] = fingerprint
        return self._tables[split]

    def state_dict(self) -> dict[str, Any]:
        """Return the tables, and the fingerprints of their splits."""
        return {"tables": dict(self._tables), "fingerprints": dict(self._fingerprints)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._tables, self._fingerprints = saved["tables"], saved["fingerprints"]

    def _compute_table(self, split: str) -> Tensor:
        run = self.run
        size = run.trainer.batch_size
        loader = run.data.loader(split, run.tokenizer, batch_size=size, seed=0, shuffle=False)
        table = torch.empty(len(loader.prepared))
        with self.reference.model() as model, run.autocast():
            for batch in loader:
                table[batch["indices"]] = self.score(model, batch).flatten().float().cpu()
        self.reference.release()
        return table
