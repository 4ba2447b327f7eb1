"""Classification by words: cross-entropy over the label words instead of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
from ftcli.objectives.causal_lm import NextTokenPrediction

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class LabelWords(Objective):
    """Cross-entropy of the right word among the label words, one value a row.

    The prompt leads to a word ("... It was"), and only the logits of the label words at that
    position count (Schick and Schuetze 2021, arXiv 2001.07676; as MeZO trains, arXiv 2305.17333,
    appendix E). Of a word with several tokens only the first is scored.
    """

    words: list[str] | None = None  # with their leading space; null: the completions of the rows
    candidates: Tensor = field(init=False, repr=False, default_factory=lambda: torch.empty(0))

    def setup(self, run: Run) -> None:
        """Find the first token of each word."""
        self.candidates = token_ids(self.words, run)

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return losses [n], one a row; metric: accuracy."""
        if not len(self.candidates):
            raise UserError(f"{type(self).__name__} has not been set up with a run.", "objective")
        scores = score_candidates(model, batch, self.candidates)
        hits = (scores.logits.argmax(1) == scores.targets).float()
        sequence = torch.arange(len(hits), device=hits.device)
        values = self.values(scores, hits)
        return Losses(values, sequence, {"accuracy": hits.mean()}, scores.hidden, scores.head)

    def values(self, scores: CandidateScores, hits: Tensor) -> Tensor:
        """Return the loss of each row, [n]; `hits` [n] is 1 where the right word scores highest."""
        return cross_entropy(scores.logits, scores.targets, reduction="none")

    def layout_check_objective(self) -> Objective:
        """Return next-token prediction, which shows the logits of every word."""
        return NextTokenPrediction()

    def sizes(self, batch: dict[str, Any]) -> tuple[int, int]:
        """Return the number of rows twice: each is one value and one sequence."""
        rows = len(answer_positions(batch)[0])
        return rows, rows
