"""A bundle repeats its run to the bit in another folder; nothing leaves the folder it is unpacked into."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ftcli.cli.app import run as ftcli
from ftcli.core.errors import UserError
from ftcli.jobs.bundle import bundle_run
from ftcli.jobs.bundle_files import collect_files
from ftcli.jobs.unbundle import unpack_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """A folder with rows, their licence, and what is nobody's business."""
    folder = tmp_path_factory.mktemp("mine") / "rows"
    folder.mkdir()
    lines = [json.dumps({"mr": f"name[{i}]", "ref": f"It is called {i}."}) for i in range(24)]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "LICENSE.md").write_text("# Rows\n\nLicence: CC BY 4.0\n")
    (folder / "passwords.kdbx").write_text("mine")
    return folder


@pytest.fixture(scope="module")
def local_run(train_tiny, rows) -> Path:
    """A run on these rows, with a LoRA whose dropout draws numbers."""
    return train_tiny(
        "run.name=local", f"data.path={rows}", "data.test=null", "method=lora",
        "method.r=4", "+method.lora_dropout=0.1", "model.quantization=none", "eval.generation=null",
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle(local_run, tmp_path_factory) -> Path:
    return Path(bundle_run(local_run, tmp_path_factory.mktemp("out") / "b.tar.gz").path)


def figures(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl, without what a clock has measured."""
    timed = ("time", "tok_s", "mem_gb")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def test_the_unpacked_run_repeats_to_the_bit(bundle, local_run, rows, tmp_path):
    hidden = rows.with_name("hidden")
    rows.rename(hidden)  # the other machine has not got them
    try:
        folder = Path(unpack_bundle(bundle, tmp_path / "there").folder)
        env = os.environ | {"PYTHONPATH": str(ROOT), "FTCLI_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "ftcli.cli", "train", "config.yaml"]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    finally:
        hidden.rename(rows)
    assert done.returncode == 0, done.stdout + done.stderr
    again = folder / "runs" / "local" / "latest" / "metrics.jsonl"
    assert figures(again) == figures(folder / "record" / "metrics.jsonl")
    assert figures(again) == figures(local_run / "metrics.jsonl")


def test_what_is_in_it(bundle, local_run, tmp_path):
    folder = Path(unpack_bundle(bundle, tmp_path / "there").folder)
    index = json.loads((folder / "bundle.json").read_text())
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {"bundle.json", *index["files"]}
    assert {"data/path/train.jsonl", "data/path/LICENSE.md", "requirements.txt"} <= files
    assert "data/path/passwords.kdbx" not in files
    env = json.loads((local_run / "env.json").read_text())
    assert index["packages"] == env["packages"] and index["seed"] == 0
    assert index["commit"] == env["git"]["commit"] and index["base"]["files"]
    assert f"peft=={env['packages']['peft']}" in (folder / "requirements.txt").read_text()
    assert "+cpu" not in (folder / "requirements.txt").read_text()
    assert any("CC BY 4.0" in note for note in index["notes"])
    assert str(local_run.parent) not in (folder / "config.yaml").read_text()


def test_without_data_the_other_machine_is_told(local_run, rows, tmp_path, capsys):
    file = tmp_path / "b.tar.gz"
    assert ftcli(["bundle", str(local_run), "--no-data", "--to", str(file)]) == 0
    assert f"data.path: {rows} is not in the bundle" in capsys.readouterr().out
    assert ftcli(["bundle", str(file), "--to", str(tmp_path / "there")]) == 0
    said = capsys.readouterr().out
    assert "is not in the bundle" in said and "ftcli train config.yaml" in said
    assert not (tmp_path / "there" / "data").exists()


def test_paths_of_every_kind_become_relative(tmp_path):
    for name in (
        "a/train.jsonl",
        "a/test.jsonl",
        "b/x1.jsonl",
        "b/x2.jsonl",
        "base/config.json",
        "t.jinja",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    config = {
        "model": {"path": f"{tmp_path}/base", "chat_template": "t.jinja"},
        "data": {
            "_target_": "ftcli.data.dataset.Data", "path": "a", "test": f"{tmp_path}/b/x*.jsonl",
            "validation": 0.1, "prompt_template": "{prompt}/a\n", "cache_dir": "/tmp",
            "sources": [{"path": "b"}, {"path": "asset:e2e"}],
        },
        "run": {"dir": str(tmp_path)},
        "logger": {"wandb": {"project": "x"}},
    }  # fmt: skip
    found = collect_files(config, tmp_path, with_base=True)
    data = found.config["data"]
    assert (data["path"], data["test"]) == ("data/path", "data/test/x*.jsonl")
    assert [source["path"] for source in data["sources"]] == ["data/path2", "asset:e2e"]
    assert found.config["model"] == {
        "path": "base/path",
        "chat_template": "data/chat_template/t.jinja",
    }
    assert data["prompt_template"] == "{prompt}/a\n" and "cache_dir" not in data
    assert found.config["run"] == {"dir": "runs"} and found.config["logger"] == {}
    assert sorted(found.packed) == [
        "base/path/config.json", "data/chat_template/t.jinja", "data/path/test.jsonl",
        "data/path/train.jsonl", "data/path2/x1.jsonl", "data/path2/x2.jsonl",
        "data/test/x1.jsonl", "data/test/x2.jsonl",
    ]  # fmt: skip
    assert collect_files(config, tmp_path).named == {"model.path": f"{tmp_path}/base"}
    assert config["data"]["path"] == "a"


def repack(bundle: Path, target: Path, change: Any) -> Path:
    """The bundle with its members changed; `change` gets name -> (member, content)."""
    with tarfile.open(bundle) as tar:
        members = {m.name: (m, tar.extractfile(m).read()) for m in tar}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(target, "w:gz") as tar:
        for member, content in members.values():
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target


def rename(members: dict[str, Any], to: str) -> None:
    """Give a member another name, in the index too."""
    members["README.md"][0].name = to
    members["bundle.json"] = (
        members["bundle.json"][0],
        members["bundle.json"][1].replace(b'"README.md"', json.dumps(to).encode()),
    )


def link(members: dict[str, Any], kind: bytes) -> None:
    member = members["README.md"][0]
    member.type, member.linkname = kind, "/etc/passwd"
    members["README.md"] = (member, b"")


def add(members: dict[str, Any]) -> None:
    members["more"] = (tarfile.TarInfo("more"), b"more")


def alter(members: dict[str, Any]) -> None:
    member, content = members["data/path/train.jsonl"]
    members["data/path/train.jsonl"] = (member, content.replace(b"called", b"cabled"))


@pytest.mark.parametrize(
    "change",
    [
        lambda members: rename(members, "../escaped"),
        lambda members: rename(members, "/tmp/escaped"),
        lambda members: rename(members, "a/../../escaped"),
        lambda members: link(members, tarfile.SYMTYPE),
        lambda members: link(members, tarfile.LNKTYPE),
        lambda members: link(members, tarfile.FIFOTYPE),
        add,
        alter,
        lambda members: members.pop("config.yaml"),
        lambda members: members.pop("bundle.json"),
    ],
)
def test_a_bundle_that_was_tampered_with_leaves_nothing(bundle, tmp_path, change):
    bad = repack(bundle, tmp_path / "bad.tar.gz", change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError):
        unpack_bundle(bad, tmp_path / "deep")
    assert sorted(tmp_path.rglob("*")) == before


def test_damage_and_a_file_of_another_kind(bundle, tmp_path):
    for name, content in (("cut", bundle.read_bytes()[:-200]), ("text", b"no archive at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="bundle"):
            unpack_bundle(tmp_path / name, tmp_path / "there")
    (tmp_path / "full").mkdir()
    with pytest.raises(UserError, match="exists"):
        unpack_bundle(bundle, tmp_path / "full")


def test_an_unpacked_folder_is_no_run(bundle, tmp_path):
    folder = unpack_bundle(bundle, tmp_path / "there").folder
    with pytest.raises(UserError, match="no record"):
        bundle_run(folder, tmp_path / "b.tar.gz")


def test_weights_of_another_run_and_other_packages(local_run, bundle, tmp_path):
    copy = shutil.copytree(local_run, tmp_path / "run", symlinks=True)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config + "init_from: /elsewhere\n")
    with pytest.raises(UserError, match="begins at the weights"):
        bundle_run(copy, tmp_path / "b.tar.gz")

    def other(members: dict[str, Any]) -> None:
        member, content = members["bundle.json"]
        index = json.loads(content)
        index["packages"]["peft"] = "0.1"
        members["bundle.json"] = (member, json.dumps(index).encode())

    changed = repack(bundle, tmp_path / "old.tar.gz", other)
    notes = unpack_bundle(changed, tmp_path / "there").notes
    assert any("(was 0.1)" in note for note in notes)


def test_a_bundle_that_is_not_there_is_no_run(tmp_path, capsys):
    assert ftcli(["bundle", str(tmp_path / "run.tar.gz"), "--to", str(tmp_path / "there")]) == 2
    assert "no such file" in capsys.readouterr().err
