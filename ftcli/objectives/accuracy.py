"""The share of wrong label words as an objective without a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ftcli.objectives.candidates import CandidateScores
from ftcli.objectives.label_words import LabelWords


@dataclass
class Accuracy(LabelWords):
    """1 minus accuracy over the label words (MeZO, arXiv 2305.17333, section 3.3).

    It is constant nearly everywhere, so it needs an optimizer that uses only losses (MeZO), with `eps` and
    batch large enough for some answers to change between its two losses.
    """

    differentiable: ClassVar[bool] = False

    def values(self, scores: CandidateScores, hits: Tensor) -> Tensor:
        """Return 0 for a right word and 1 for a wrong one, [n]."""
        return 1 - hits
