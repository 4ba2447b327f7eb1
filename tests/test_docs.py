"""What the docs name exists: verbs, paths, links, every file of a run; the worked adapter does what its page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftcli.cli.verb_loader import find_verbs

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request) -> tuple[Path, str]:
    return request.param, request.param.read_text(encoding="utf-8")


def test_verbs_exist(page):
    said = set(re.findall(r"(?:`|^    |^\$ )ftcli ([a-z]+)", page[1], re.MULTILINE))
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


@pytest.fixture(scope="module")
def worked() -> tuple[str, dict[str, str]]:
    """The worked adapter of methods.md: its shell commands, and path -> text of its files."""
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    section = text.split("\n## Adding one with code")[1].split("\n## ")[0]
    commands = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    files = re.findall(
        r"^\*\*([\w./]+)\*\*\n\n```\w+\n(.*?)^```$", section, re.MULTILINE | re.DOTALL
    )
    return "".join(commands), dict(files)


@pytest.fixture
def clone(tmp_path, worked) -> Path:
    """The repository with the worked adapter in it; links, but for the package, which reads what lies beside it."""
    package = shutil.ignore_patterns("assets", "__pycache__")
    shutil.copytree(ROOT / "ftcli", tmp_path / "ftcli", ignore=package)
    for folder in ("recipes", "tests/papers"):
        (tmp_path / folder).mkdir(parents=True)
    linked = ["configs", "pyproject.toml", "ftcli/assets", "tests/conftest.py", "tests/methods"]
    linked += [f"recipes/{path.name}" for path in (ROOT / "recipes").iterdir()]
    for path in linked:
        (tmp_path / path).symlink_to(ROOT / path)
    commands, files = worked
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path, check=True)
    for path, text in files.items():
        (tmp_path / path).write_text(text, encoding="utf-8")
    return tmp_path


def _run(folder: Path, *command: str) -> str:
    """Run a module of Python in a copy of the repository, whose package comes first; its output."""
    places = {"PYTHONPATH": str(folder), "FTCLI_CONFIGS": str(folder / "none")}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder, env=os.environ | places, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_worked_adapter_is_five_short_files(worked):
    kinds = {"method.py", "lora_xs.yaml", "measures.py", "recipe.yaml", "test_method.py"}
    assert {Path(path).name for path in worked[1]} == kinds
    assert max(text.count("\n") for text in worked[1].values()) < 60


def test_the_worked_adapter_passes_its_test_and_the_contract(clone, worked):
    python = [path for path in worked[1] if path.endswith(".py")]
    _run(clone, "ruff", "check", "-q", *python)
    _run(clone, "ruff", "format", "-q", "--check", *python)
    assert "14,336 of 6,951,168 parameters trained" in _run(clone, "ftcli", "check", "lora_xs")
    files = ["tests/papers/lora_xs/test_method.py", "tests/methods/test_contract.py"]
    chosen = "test_method or lora_xs-llama-fp32"  # one model is enough to see that it is found
    out = _run(clone, "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", chosen)
    passed = re.search(r"^(\d+) passed, \d+ deselected", out, re.MULTILINE)
    assert passed and int(passed[1]) >= 5 + 10, out
