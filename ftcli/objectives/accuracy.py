"""The share of wrong words as it is, without a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ftcli.objectives.candidates import CandidateScores
from ftcli.objectives.label_words import LabelWords


@dataclass
class Accuracy(LabelWords):
    """1 minus accuracy over the label words (MeZO, arXiv 2305.17333, section 3.3).

    Constant nearly everywhere: for an optimizer that needs losses only, with an `eps` and a batch
    large enough for some answers to change between its two losses.
    """

    differentiable: ClassVar[bool] = False

    def values(self, found: CandidateScores, hits: Tensor) -> Tensor:
        """0 for a right word, 1 for a wrong one."""
        return 1 - hits
