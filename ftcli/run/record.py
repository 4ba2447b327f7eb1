"""The record of a run's origin in its directory: config, command, machine, packages."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.config.classpath import list_trusted_packages
from ftcli.core.atomic import write_json, write_text
from ftcli.core.redaction import redact, redact_tree, redact_word
from ftcli.core.run_dir import RunDir

if TYPE_CHECKING:
    from ftcli.config import ComposedJob

PACKAGES = (
    "ftcli", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets",
    "hydra-core", "omegaconf", "safetensors", "numpy", "sacrebleu", "rouge-score",
)  # fmt: skip
VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", "HF_HOME",
    "PYTORCH_CUDA_ALLOC_CONF", "FTCLI_CONFIGS", "FTCLI_CACHE", "FTCLI_TRUST",
    "WORLD_SIZE",
)  # fmt: skip


def write_record(run_dir: RunDir, composed: ComposedJob) -> None:
    """Write config.yaml, overrides.yaml, sources.yaml, command.txt and env.json.

    Secrets are kept out: only the variables of `VARIABLES` are read from the environment, and every
    file is redacted.
    """
    overrides = [redact_word(word) for word in composed.overrides]
    write_text(run_dir.path / "overrides.yaml", _format_yaml(overrides))
    sources = {key: str(origin) for key, origin in composed.origins.items()}
    write_text(run_dir.path / "sources.yaml", _format_yaml(sources))
    write_text(run_dir.path / "command.txt", _format_command())
    write_json(run_dir.path / "env.json", environment())
    write_config(run_dir, composed.config)  # last: with it the folder is a run


def write_config(run_dir: RunDir, config: dict[str, Any]) -> None:
    """Write the resolved config, from which alone the run can be repeated."""
    write_text(run_dir.path / "config.yaml", _format_yaml(config))


def environment() -> dict[str, Any]:
    """Return packages, machine, GPU and the state of the source code."""
    import torch

    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _read_processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "packages": {name: number for name in PACKAGES if (number := find_version(name))},
        "trusted": list_trusted_packages(),
        "git": _read_git_state(),
    }


def _format_yaml(value: Any) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(redact_tree(value)))


def _format_command() -> str:
    """The command line for a shell, with the folder and variables that it depends on as comments."""
    typed = shlex.join(["ftcli", *map(redact_word, sys.argv[1:])])
    lines = [typed, f"# in {Path.cwd()}"]
    lines += [f"# {name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return redact("\n".join(lines)) + "\n"


def _read_processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def find_version(package: str) -> str | None:
    """Return the installed version of a package; None where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read_git_state() -> dict[str, str] | None:
    """Commit and uncommitted changes of the working folder; None outside a repository."""

    def git(*words: str) -> str:
        ended = subprocess.run(["git", *words], capture_output=True, text=True, timeout=20)
        return ended.stdout.strip() if ended.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "diff": redact(git("diff", "HEAD")[:100_000])} if commit else None
    except (OSError, subprocess.SubprocessError):
        return None
