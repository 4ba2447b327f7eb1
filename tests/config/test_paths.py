"""Configs are found in a clone, in a wheel and in the user's folder."""

from __future__ import annotations

import pytest

from ftcli.config import paths
from ftcli.core.errors import UserError


def test_a_wheel_holds_its_own_copy(tmp_path, monkeypatch):
    for name in ("_configs/eval", "_recipes/bases"):
        (tmp_path / "ftcli" / name).mkdir(parents=True)
    (tmp_path / "ftcli" / "_configs" / "eval" / "x.yaml").write_text("# X\n")
    (tmp_path / "ftcli" / "_recipes" / "bases" / "tiny.yaml").write_text("seed: 1\n")
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "ftcli")
    assert paths.configs_dir() == tmp_path / "ftcli" / "_configs"
    assert paths.list_groups() == ["eval"]
    assert paths.find_job("bases/tiny") == paths.find_job("recipes/bases/tiny.yaml")
    assert paths.format_path(paths.configs_dir() / "eval" / "x.yaml") == "configs/eval/x.yaml"
    assert (
        paths.find_formatted_path("configs/eval/x.yaml") == paths.configs_dir() / "eval" / "x.yaml"
    )


def test_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FTCLI_CONFIGS", str(tmp_path))
    assert paths.user_dir() == tmp_path
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    assert paths.find_job("mine") == tmp_path / "mine.yaml"
    monkeypatch.delenv("FTCLI_CONFIGS")
    assert paths.user_dir().parts[-3:] == (".config", "ftcli", "configs")


def test_a_folder_without_a_config_and_a_name_nearly_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="without a config.yaml"):
        paths.find_job("empty")
    (tmp_path / "my_job.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match="Closest: my_job.yaml"):
        paths.find_job("my_jbo.yaml")


@pytest.mark.parametrize(
    ("word", "group"), [("methods", "method"), ("data", "data"), ("method", "method"), ("x", None)]
)
def test_plurals(word, group):
    assert paths.find_group(word) == group
