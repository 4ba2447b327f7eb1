"""Classification by words: cross-entropy over the candidate words in place of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ftcli.core.errors import UserError
from ftcli.objectives.base import Losses, Objective
from ftcli.objectives.candidates import (
    CandidateScores,
    answer_positions,
    score_candidates,
    token_ids,
)


@dataclass
class LabelWords(Objective):
    """Cross-entropy of the right word among the label words, one value a row.

    The prompt leads to a word ("... It was"), and only the logits of the label words at that
    position count (Schick and Schuetze 2021, arXiv 2001.07676; as MeZO trains, arXiv 2305.17333,
    appendix E). Of a word of several tokens the first is judged.
    """

    words: list[str] | None = None  # with their leading space; null: the completions of the rows
    candidates: Tensor = field(init=False, repr=False, default_factory=lambda: torch.empty(0))

    def setup(self, run: Any) -> None:
        """Find the words' tokens."""
        self.candidates = token_ids(self.words, run)

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Losses [n], one a row; metric: accuracy."""
        if not len(self.candidates):
            raise UserError(f"{type(self).__name__} has not been set up with a run.", "objective")
        found = score_candidates(model, batch, self.candidates)
        hits = (found.logits.argmax(1) == found.targets).float()
        sequence = torch.arange(len(hits), device=hits.device)
        values = self.values(found, hits)
        return Losses(values, sequence, {"accuracy": hits.mean()}, found.hidden, found.head)

    def values(self, found: CandidateScores, hits: Tensor) -> Tensor:
        """What each row contributes."""
        return cross_entropy(found.logits, found.targets, reduction="none")

    def sizes(self, batch: dict[str, Any]) -> tuple[int, int]:
        """Rows, and rows."""
        rows = len(answer_positions(batch)[0])
        return rows, rows
