"""A stale verdict counts for changed code where its first seed comes out equal to the bit, and only there."""

from __future__ import annotations

import pytest

from ftcli.core import code
from ftcli.reproduce import confirmation, papers, verdicts


@pytest.fixture
def judged(reproduce, pretended, committed, monkeypatch):
    """Judged and stored verdicts of the tiny recipe; then the code changes, and runs are made anew."""
    reproduction = reproduce()
    verdicts.store_verdicts(reproduction)
    digest = code.digest
    monkeypatch.setattr(code, "digest", lambda roots, *root: digest(roots, *root)[::-1])
    for run in reproduction.experiment.trials:
        (run.path / "result.json").unlink()
        for file in run.path.iterdir():
            file.unlink()
        run.path.rmdir()
    pretended.calls.clear()
    assert len(list(papers.find_stale(reproduction.recipe))) == 3
    return reproduction.recipe


def test_equal_figures_of_the_first_seed_confirm(judged, pretended):
    outcome = confirmation.confirm_verdicts(judged, "small", lambda step: None)
    assert set(outcome.values()) == {"confirmed"} and len(outcome) == 3
    assert {seed for _, seed in pretended.calls} == {0} and len(pretended.calls) == 3
    assert list(papers.find_stale(judged)) == []
    assert "repeated at c0ffeec0f" in "\n".join(papers._render_recipe(judged))
    assert confirmation.confirm_verdicts(judged, "small", lambda step: None) == {}


def test_a_figure_that_differs_stays_stale(judged, pretended):
    pretended.losses = {"nf4": 2.0, "none": 1.98, "fp4": 2.2000001}
    outcome = confirmation.confirm_verdicts(judged, "small", lambda step: None)
    assert outcome["better than FP4"] == "differs"
    assert outcome["as good as 16-bit LoRA"] == "confirmed"
    assert [claim.say for claim, _ in papers.find_stale(judged)] == ["better than FP4"]
