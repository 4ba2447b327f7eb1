"""Declarations of an objective about the rows that it reads."""

from __future__ import annotations

import pytest

from ftcli.objectives.accuracy import Accuracy
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.objectives.classification import Classification
from ftcli.objectives.diffusion import Diffusion
from ftcli.objectives.dpo import DPO
from ftcli.objectives.generated import Generated
from ftcli.objectives.label_words import LabelWords


@pytest.mark.parametrize("objective", [NextTokenPrediction, DPO, Generated, LabelWords, Accuracy])
def test_rows_of_text_are_measured_by_next_token_prediction(objective):
    assert objective().layout_check_objective() == NextTokenPrediction()


@pytest.mark.parametrize("objective", [Classification, Diffusion])
def test_other_rows_are_not_measured(objective):
    assert objective().layout_check_objective() is None
