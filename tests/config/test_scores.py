"""A run that is to end by a score that nothing gives is refused before it starts."""

from __future__ import annotations

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.config.scores import list_scores
from ftcli.core.errors import UserError

STOPPING = ("callback=early_stopping", "trainer.eval_every=5")


def stop_by(score: str, *overrides: str) -> str:
    """Validate a job that stops by a score; the score that it keeps."""
    composed = compose(
        "qlora_mini", [*STOPPING, f"callback.early_stopping.score={score}", *overrides]
    )
    validate_and_convert(composed)
    return composed.config["callback"]["early_stopping"]["score"]


def test_the_scores_of_evaluators_are_those_of_their_metrics_and_returned_dicts():
    found = {s.evaluator: s for s in list_scores(compose("qlora_mini").config)}
    assert found["loss"].names == {"loss", "perplexity", "loss/*"} and found["loss"].periodic
    slots = {"slot_error", "slots_missed", "slots_invented"}
    assert found["generation"].names == {"bleu", "chrf", "rougeL", *slots}
    assert not found["generation"].periodic
    words = ["eval=denoising", "eval.denoising.name=error"]
    assert next(list_scores(compose("qlora_mini", words).config)).names == {"error"}


@pytest.mark.parametrize(
    ("score", "overrides", "fix"),
    [
        ("los", [], "callback.early_stopping.score=loss"),
        ("blue", [], "callback.early_stopping.score=bleu eval.generation.periodic=true"),
        ("blue", ["eval.generation.periodic=true"], "callback.early_stopping.score=bleu"),
        ("bleu", [], "eval.generation.periodic=true"),
        ("zzz", [], "callback.early_stopping.score=loss"),
        ("zzz", ["eval=label_words"], "callback.early_stopping.score=loss"),
        ("chrf", ["eval.generation.periodic=true", "eval.generation.metrics=[bleu]"],
         "callback.early_stopping.score=loss"),
        ("loss", ["eval=sums", "eval.generation.periodic=true"],
         "callback.early_stopping.score=final_number"),
    ],
)  # fmt: skip
def test_a_score_that_is_not_given_while_the_run_trains_is_refused(score, overrides, fix):
    with pytest.raises(UserError, match="at trainer.eval_every") as caught:
        assert stop_by(score, *overrides) == score
    assert caught.value.fix == fix and caught.value.where == "command line"
    assert caught.value.what.startswith(f"callback.early_stopping.score={score}: ")


def test_the_scores_that_are_given_are_named():
    with pytest.raises(UserError, match="Given there: loss, perplexity"):
        stop_by("blue")


@pytest.mark.parametrize(
    ("score", "overrides"),
    [
        ("loss", []),
        ("eval.perplexity", []),
        ("loss/first", []),  # of one source
        ("slots_missed", ["eval.generation.periodic=true"]),
        ("generation.bleu", ["eval.generation.periodic=true"]),  # its name where two give it
        ("held/loss", ["data=mixture", "data.sources=[{path: a}]", "data.eval_sets={held: {path: b}}"]),
        ("rewards/margin", ["eval=preference"]),  # its names are not known beforehand
        ("zzz", ["eval=preference"]),
    ],
)  # fmt: skip
def test_what_is_given_or_not_known_beforehand_is_accepted(write, score, overrides):
    assert stop_by(score, *overrides) == score
