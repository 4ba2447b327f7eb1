"""The hash of code covers what a computation imports, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from ftcli.config import compose
from ftcli.core import code
from ftcli.core.config_hash import config_hash

JOB = ["~eval.generation"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the sources that tests may change."""
    root = tmp_path_factory.mktemp("tree")
    skip = shutil.ignore_patterns("assets", "__pycache__")
    shutil.copytree(code.ROOT / "ftcli", root / "ftcli", ignore=skip)
    return root


@pytest.fixture
def edit(tree):
    """A function that changes a file of the copy; undone after the test."""
    before: dict[Path, str] = {}

    def change(name: str, old: str, new: str) -> None:
        path = tree / name
        text = before.setdefault(path, path.read_text())
        assert old in text
        path.write_text(path.read_text().replace(old, new, 1))

    yield change
    for path, text in before.items():
        path.write_text(text)


def roots(*overrides: str) -> list[str]:
    return code.roots_of(compose("qlora_mini", [*JOB, *overrides]).config)


def test_a_run_imports_the_loop_and_the_classes_that_its_configuration_names():
    modules = code.closure(roots("optimizer=mezo"))
    assert {"ftcli.trainer.trainer", "ftcli.jobs.train", "ftcli.optimizers.mezo"} <= set(modules)
    assert {"ftcli.data.formats.prompt", "ftcli.data.readers"} <= set(modules), "found by name"
    assert (
        "ftcli.papers.qst.method" not in modules
        and "ftcli.papers.fedkseed.optimizer" not in modules
    )
    assert not [m for m in modules if m.startswith(("ftcli.cli.", "ftcli.reproduce.measures"))]


FUTURE = "from __future__ import annotations\n"  # stands in every module


@pytest.mark.parametrize(
    "file",
    [
        "ftcli/optimizers/mezo.py",  # the class
        "ftcli/trainer/trainer.py",  # the loop
        "ftcli/optimizers/replay.py",  # what the class calls
        "ftcli/data/formats/prompt.py",  # what is found by its name in a folder
    ],
)
def test_a_change_of_what_is_imported_is_noticed(tree, edit, file):
    before = code.digest(roots("optimizer=mezo"), tree)
    edit(file, FUTURE, f"{FUTURE}\nEPS = 1\n")
    assert code.digest(roots("optimizer=mezo"), tree) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("ftcli/papers/qst/method.py", FUTURE, f"{FUTURE}\nEPS = 1\n"),  # another method
        ("ftcli/cli/verbs/plan.py", FUTURE, f"{FUTURE}\nEPS = 1\n"),  # a verb
        ("ftcli/optimizers/mezo.py", '"""', '"""Other words. '),  # a docstring
        ("ftcli/trainer/trainer.py", FUTURE, f"{FUTURE}\n# a comment\n"),
    ],
)
def test_what_is_not_imported_and_words_do_not_matter(tree, edit, file, old, new):
    before = code.digest(roots("optimizer=mezo"), tree)
    edit(file, old, new)
    assert code.digest(roots("optimizer=mezo"), tree) == before


def test_values_of_a_file_of_settings_count(tmp_path):
    (tmp_path / "ftcli").mkdir()
    path = tmp_path / "a.yaml"
    path.write_text("# words\nlr: 1\nr: 2\n")
    before = code.digest(["a.yaml"], tmp_path)
    path.write_text("r: 2\nlr: 1  # other words\n")
    assert code.digest(["a.yaml"], tmp_path) == before
    path.write_text("r: 2\nlr: 2\n")
    assert code.digest(["a.yaml"], tmp_path) != before
    with pytest.raises(KeyError):
        code.digest(["b.yaml"], tmp_path)


def test_a_folder_without_init_is_a_package_too(tmp_path):
    folder = tmp_path / "ftcli" / "papers" / "new"
    folder.mkdir(parents=True)
    (tmp_path / "ftcli" / "__init__.py").touch()
    (folder / "method.py").write_text("RANK = 8\n")
    before = code.digest(["ftcli.papers.new.method"], tmp_path)
    assert code.closure(["ftcli.papers.new.method"], tmp_path) == ["ftcli.papers.new.method"]
    (folder / "__init__.py").write_text("RATE = 1\n")
    code._list_modules.cache_clear()
    assert code.digest(["ftcli.papers.new.method"], tmp_path) != before


def test_a_runs_hash_follows_code_and_libraries(monkeypatch):
    config = compose("qlora_mini", JOB).config
    before = config_hash(config)
    monkeypatch.setattr(code, "libraries", lambda: {"torch": "1.0"})
    assert config_hash(config) != before
    monkeypatch.undo()
    monkeypatch.setattr(code, "digest", lambda roots: "0" * 16)
    assert config_hash(config) != before


def test_every_class_that_an_option_names_is_a_module_that_is_found():
    """Otherwise its code would be missing from the hash in silence."""
    named = set()
    for path in (
        *code.ROOT.glob("configs/**/*.yaml"),
        *code.ROOT.glob("recipes/*/configs/**/*.yaml"),
    ):
        named |= set(re.findall(r"(?:_target_|_class): (ftcli[\w.]+)", path.read_text()))
    assert len(named) > 50
    for target in named:
        assert target.rpartition(".")[0] in code.roots_of({"x": target})
