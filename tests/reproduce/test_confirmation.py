"""A stale verdict counts for changed code where its first seed comes out equal to the bit, and only there."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from ftcli.core import code
from ftcli.core.errors import UserError
from ftcli.reproduce import confirmation, origin, papers, verdicts


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


def test_on_another_processor_both_commits_are_run(judged, pretended, monkeypatch):
    """The stored figures were made elsewhere: what counts is that both commits give the same bits here."""
    identities = {claim.say: claim.identity for claim in judged.claims}
    here = {"few bits": 4.21, "as good as 16-bit LoRA": 0.02, "better than FP4": -0.2}
    pretended.losses = {"nf4": 2.01, "none": 1.99, "fp4": 2.21}
    asked = []

    def rerun(at, recipe, scale):
        asked.append((at, scale))
        return earlier

    monkeypatch.setattr(confirmation, "rerun_commit", rerun)
    today = {say: claim.values for say, claim in _judge_here(judged).items()}
    earlier = {identities[say]: {"verdict": "holds", "values": today[say]} for say in here}
    earlier[identities["better than FP4"]]["values"] = [-0.25]
    outcome = confirmation.confirm_verdicts(judged, "small", lambda step: None, rerun_old=True)
    assert outcome == dict.fromkeys(here, "confirmed") | {"better than FP4": "differs"}
    assert asked == [("c0ffee" * 6, "small")]
    kept = verdicts.load_verdicts(judged)["verdicts"]
    assert kept[identities["few bits"]]["confirmed"]["rerun"] == "c0ffee" * 6


def _judge_here(recipe):
    from ftcli.reproduce.reproduction import Reproduction

    reproduction = Reproduction(recipe, seeds=1)
    reproduction.run(lambda step: None)
    return {c.say: v for c, v in zip(reproduction.claims, reproduction.verdicts, strict=True)}


@pytest.fixture
def head():
    """The checked-out commit; tests that need one are skipped outside a repository."""
    try:
        return origin.run_git("rev-parse", "HEAD").decode().strip()
    except origin.HistoryUnavailable as unknown:
        pytest.skip(str(unknown))


def test_a_commit_runs_in_its_own_checkout(judged, head, monkeypatch):
    seen = []

    def run(command, cwd, env, **options):
        seen.append((command[3:], cwd, env["PYTHONPATH"], (cwd / "ftcli/cli").is_dir()))
        return subprocess.CompletedProcess(command, 1, '{"verdicts": {"1a": {"values": [2.0]}}}')

    monkeypatch.setattr(confirmation, "subprocess", SimpleNamespace(run=run, PIPE=subprocess.PIPE))
    assert confirmation.rerun_commit(head, judged, "small") == {"1a": {"values": [2.0]}}
    [(words, folder, path, complete)] = seen
    assert words == ["reproduce", "tiny", "--scale", "small", "--seeds", "1", "--json"]
    assert complete and path == str(folder) and not folder.exists()
    assert str(folder) not in origin.run_git("worktree", "list").decode()


def test_a_commit_that_does_not_run_is_named(judged, head, monkeypatch):
    failed = subprocess.CompletedProcess([], 2, "no JSON")
    monkeypatch.setattr(
        confirmation,
        "subprocess",
        SimpleNamespace(run=lambda *_, **__: failed, PIPE=subprocess.PIPE),
    )
    with pytest.raises(UserError, match=f"the code of commit {head[:9]} does not run here"):
        confirmation.rerun_commit(head, judged, "small")
    with pytest.raises(UserError, match="cannot be checked out"):
        confirmation.rerun_commit("0" * 40, judged, "small")
