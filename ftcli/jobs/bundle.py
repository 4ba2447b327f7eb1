"""Pack a run into one archive from which another machine repeats it: configuration, versions, data, hashes."""

from __future__ import annotations

import json
import os
import re
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli import __version__
from ftcli.core.atomic import sync, write_text
from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.bundle_files import LocalFiles, collect_files
from ftcli.run.card import UNKNOWN
from ftcli.run.report import read_config, read_json
from ftcli.trainer.manifest import sha256

INDEX, SUFFIX = "bundle.json", ".bundle.tar.gz"
VERSION = 1  # of the layout
RECORD = ("env.json", "data.json", "base.json", "proof.json", "command.txt", "overrides.yaml",
          "sources.yaml", "metrics.jsonl", "result.json")  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """An archive that was written.

    Attributes:
        files: name in the archive -> bytes.
        local: name in the archive -> file of this machine that the configuration names.
        notes: what the other machine must have itself, and what is not known.
    """

    path: str
    bytes: int
    files: dict[str, int]
    local: dict[str, str]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for --json."""
        return vars(self)


def bundle_run(
    path: str | Path, to: str | Path | None = None, with_data: bool = True, with_base: bool = False
) -> Bundle:
    """Write the archive of a run.

    Args:
        to: file; None: `<name>-<time>.bundle.tar.gz` in the working folder.
        with_data: pack local files that the run reads; else only their hashes.
        with_base: pack the folder of a local base model.

    Raises:
        UserError: the run has stages, begins at the weights of another run, or has lost its data, or the
            file exists.
    """
    folder = RunDir.open(path).path
    target = Path(to or f"{folder.parent.name}-{folder.name}{SUFFIX}")
    if target.exists():
        raise UserError(
            f"{target} exists already.", "--to", "--to ANOTHER, or remove what is there"
        )
    config = _read_config(folder)
    files = collect_files(config, _find_working_folder(folder), with_data, with_base)
    notes = _list_notes(folder, config, files)
    with tempfile.TemporaryDirectory() as temporary:
        made = _write_made_files(Path(temporary), folder, files.config, notes)
        kept = {f"record/{name}": folder / name for name in RECORD if (folder / name).is_file()}
        packed = {**made, **kept, **files.packed}
        hashes: dict[str, dict[str, Any]] = {
            name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for name, file in packed.items()
        }
        index = _build_index(folder, config, files, hashes, notes)
        _write_archive(target, index, packed)
    sizes = {name: meant["bytes"] for name, meant in hashes.items()}
    local = {name: str(file) for name, file in files.packed.items()}
    return Bundle(str(target), target.stat().st_size, sizes, local, notes)


def _read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration, with the commits that the run has read in the place of branches."""
    if not (folder / "env.json").is_file():
        raise UserError(
            f"{folder} has no record of a run: env.json is missing.", fix="ftcli ls runs"
        )
    config = read_config(folder)  # as it was written: class names are those of its version
    if config.get("stages"):
        raise UserError(f"{folder} has stages.", fix="bundle the first one; it is a run of its own")
    if config.get("init_from"):
        raise UserError(
            f"the run begins at the weights of {config['init_from']}.", "init_from",
            "merge that run, and train on the merged folder with --with-base",
        )  # fmt: skip
    for group, record in (("data", "data.json"), ("model", "base.json")):
        commit = read_json(folder / record).get("commit")
        if commit:
            config[group] = {**config[group], "revision": commit}
    return config


def _find_working_folder(folder: Path) -> Path:
    """The folder in which the run was started, where its relative paths begin."""
    command = folder / "command.txt"
    text = command.read_text(encoding="utf-8") if command.exists() else ""
    found = re.search(r"^# in (.+)$", text, re.MULTILINE)
    return Path(found[1]) if found and Path(found[1]).is_dir() else Path.cwd()


def _list_notes(folder: Path, config: dict[str, Any], files: LocalFiles) -> list[str]:
    env, data = read_json(folder / "env.json"), read_json(folder / "data.json")
    notes = [f"{key}: {path} is not in the bundle" for key, path in files.named.items()]
    licence = data.get("licence")
    if any(name.startswith("data/") for name in files.packed):
        notes.append(f"the data's licence: {licence or UNKNOWN.replace('the model', 'the bundle')}")
    if env.get("trusted"):
        notes.append(f"classes of {', '.join(env['trusted'])} are code that is not in the bundle")
    if (env.get("git") or {}).get("diff"):
        notes.append("the working folder had uncommitted changes: code.diff")
    if config.get("logger"):
        notes.append("loggers were left out of config.yaml")
    return notes


def _write_made_files(
    place: Path, folder: Path, config: dict[str, Any], notes: list[str]
) -> dict[str, Path]:
    """Write what is made for the bundle; returns name -> file."""
    from ftcli.run.record import write_config

    env = read_json(folder / "env.json")
    write_config(RunDir(place), config)
    write_text(place / "requirements.txt", _format_requirements(env))
    write_text(place / "README.md", _format_readme(folder, env, notes))
    diff = (env.get("git") or {}).get("diff")
    if diff:
        write_text(place / "code.diff", diff + "\n")
    return {file.name: file for file in sorted(place.iterdir())}


def _format_requirements(env: dict[str, Any]) -> str:
    packages = env.get("packages", {})
    return "".join(f"{name}=={number.partition('+')[0]}\n" for name, number in packages.items())


def _format_readme(folder: Path, env: dict[str, Any], notes: list[str]) -> str:
    commit = (env.get("git") or {}).get("commit")
    lines = [
        f"# Repeat {folder.parent.name} {folder.name}",
        f"Trained with ftcli {env.get('packages', {}).get('ftcli', __version__)}, Python "
        f"{env.get('python')}, {env.get('platform')}, {env.get('processor')}, GPUs: "
        f"{', '.join(env.get('gpus') or []) or 'none'}.",
        "```\npip install -r requirements.txt    # torch: of your CUDA or CPU\n"
        f"OMP_NUM_THREADS={env.get('threads')} ftcli train config.yaml    # in this folder\n```",
        "`record/metrics.jsonl` has the losses that must come out. On a CPU they are equal to the bit with the "
        "same packages, number of threads and kind of processor; on a GPU kernels may round otherwise.",
        *([f"Commit of the folder in which it was started: {commit}."] if commit else []),
        "`bundle.json` has the hash of every file, of the data and of the base model.",
        *([f"- {note}" for note in notes]),
    ]
    return "\n\n".join(lines) + "\n"


def _build_index(
    folder: Path,
    config: dict[str, Any],
    files: LocalFiles,
    hashes: dict[str, dict[str, Any]],
    notes: list[str],
) -> dict[str, Any]:
    env, data = read_json(folder / "env.json"), read_json(folder / "data.json")
    return {
        "bundle": VERSION,
        "run": f"{folder.parent.name}/{folder.name}",
        "ftcli": __version__,
        "packages": env.get("packages", {}),
        "python": env.get("python"),
        "threads": env.get("threads"),
        "commit": (env.get("git") or {}).get("commit"),
        "seed": config.get("seed", 0),
        "base": read_json(folder / "base.json"),
        "data": {
            key: data.get(key) for key in ("path", "revision", "commit", "licence", "fingerprint")
        },
        "named": files.named,
        "notes": notes,
        "files": hashes,
    }


def _write_archive(target: Path, index: dict[str, Any], files: dict[str, Path]) -> None:
    """Write the archive under a temporary name, its index first, and rename it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        with tempfile.TemporaryDirectory() as temporary, tarfile.open(unfinished, "w:gz") as tar:
            first = Path(temporary) / INDEX
            first.write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", "utf-8")
            for name, file in {INDEX: first, **files}.items():
                about = tar.gettarinfo(file.resolve(), name)
                about.uid = about.gid = 0
                about.uname = about.gname = ""  # who packed it is nobody's business
                with open(file, "rb") as stream:
                    tar.addfile(about, stream)
        sync(unfinished)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
