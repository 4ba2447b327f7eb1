"""What the docs name exists: verbs, paths, links, and every file of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftcli.cli.verb_loader import find_verbs

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request) -> tuple[Path, str]:
    return request.param, request.param.read_text(encoding="utf-8")


def test_verbs_exist(page):
    said = set(re.findall(r"(?:`|^    )ftcli ([a-z]+)", page[1], re.MULTILINE))
    assert said <= set(find_verbs())


def test_paths_and_links_exist(page):
    place, text = page
    paths = re.findall(r"`((?:ftcli|configs|tests|recipes|docs|benchmarks)/[\w./]+)`", text)
    links = re.findall(r"\]\((?!http)([\w./]+)\)", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing + [link for link in links if not (place.parent / link).exists()] == []


def test_classes_exist(page):
    from ftcli.config.signature import read_signature

    for name in re.findall(r"ftcli\.[a-z_]+\.[a-z_]+\.[A-Z]\w+", page[1]):
        assert read_signature(name).target == name


def test_every_file_of_a_run_is_described(trained_run):
    text = (ROOT / "docs" / "run_directory.md").read_text(encoding="utf-8")
    files = [path.name for path in trained_run.iterdir()]
    files += [path.name for path in (trained_run / "checkpoints" / "last").iterdir()]
    files.remove("checkpoints")
    assert [name for name in files if not re.search(rf"[`/]{re.escape(name)}[`/]", text)] == []
    result = (trained_run / "result.json").read_text()
    assert [key for key in re.findall(r'^  "(\w+)"', result, re.MULTILINE) if key not in text] == []
