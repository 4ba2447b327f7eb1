"""Every stored verdict is one that a commit can have made; what none can is found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ftcli.core import code
from ftcli.reproduce import origin, papers
from ftcli.reproduce.verdicts import load_verdicts

RECIPES = {recipe.name: recipe for recipe in papers.list_recipes()}
ROOTS = ["ftcli.methods.a"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_commit_can_have_made_every_stored_verdict(name):
    recipe = RECIPES[name]
    try:
        problems = [
            origin.check_provenance(recipe, k, v)
            for k, v in load_verdicts(recipe)["verdicts"].items()
        ]
    except origin.HistoryUnavailable as unknown:
        pytest.skip(str(unknown))
    assert [why for why in problems if why] == []


def test_every_stored_verdict_names_its_commit():
    for recipe in RECIPES.values():
        for record in load_verdicts(recipe)["verdicts"].values():
            assert len(record["commit"]) == 40, recipe.name


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A package of two modules, committed; `origin` and `code` look there."""
    package = tmp_path / "ftcli" / "methods"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "a.py").write_text("from ftcli.methods import b\n")
    (package / "b.py").write_text("X = 1\n")

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    monkeypatch.setattr(code, "ROOT", tmp_path)
    digest = code.digest
    monkeypatch.setattr(code, "digest", lambda roots, root=tmp_path: digest(roots, root))
    yield tmp_path, git
    origin.extract_commit.cache_clear()
    origin._read_verdicts_at.cache_clear()


def verdict(commit: str, digest: str) -> dict:
    return {"commit": commit, "code": digest, "roots": ROOTS}


def test_the_code_of_a_commit_is_compared_with_what_a_verdict_says(repository):
    root, git = repository
    recipe, first, digest = RECIPES["qlora"], git("rev-parse", "HEAD"), code.digest(ROOTS)
    assert origin.check_provenance(recipe, "x", verdict(first, digest)) is None, (
        "it is today's code"
    )
    path: Path = root / "ftcli" / "methods" / "b.py"
    path.write_text("X = 2\n")
    assert code.digest(ROOTS) != digest
    assert origin.check_provenance(recipe, "x", verdict(first, digest)) is None, (
        "it is that commit's"
    )
    planted = origin.check_provenance(recipe, "x", verdict(first, "0" * 16))
    assert planted == f"x: the code of commit {first[:9]} is {digest}"
    assert "not" in origin.check_provenance(recipe, "x", verdict("f" * 40, "0" * 16))


def test_a_shallow_clone_says_that_it_cannot_tell(repository, tmp_path_factory, monkeypatch):
    root, git = repository
    first = git("rev-parse", "HEAD")
    (root / "ftcli" / "methods" / "b.py").write_text("X = 2\n")
    git("commit", "-qam", "second")
    clone = tmp_path_factory.mktemp("shallow") / "clone"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{root}", clone], check=True)
    monkeypatch.setattr(code, "ROOT", clone)
    with pytest.raises(origin.HistoryUnavailable, match="shallow clone"):
        origin.extract_commit(first)


def test_a_verdict_of_the_earlier_rules_must_stand_in_its_commit(repository):
    root, git = repository
    recipe = RECIPES["qlora"]
    old = {"verdict": "holds", "why": "exact", "mean": 1.0, "values": [1.0]}
    (root / "qlora.verdicts.json").write_text(json.dumps({"small": {"claims": [old]}}))
    git("add", "-A")
    git("commit", "-qm", "verdicts")
    record = {**old, "rules": "earlier", "commit": git("rev-parse", "HEAD")}
    assert origin.check_provenance(recipe, "x", record) is None
    assert "no such verdict" in origin.check_provenance(recipe, "x", record | {"mean": 2.0})


def test_without_a_repository_nothing_can_be_said(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "ROOT", tmp_path)
    assert origin.current_commit() is None
    with pytest.raises(origin.HistoryUnavailable, match="no git repository"):
        origin.run_git("status")
