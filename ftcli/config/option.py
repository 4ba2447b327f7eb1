"""The content of one option of a group, read from its file and those it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ftcli.config import marks


def content(file: Path) -> dict[str, Any]:
    """Keys and values as written; an option whose defaults name another of its group adds to that."""
    config = marks.read(file)
    bases = [name for name in config.pop("defaults", None) or [] if isinstance(name, str)]
    found: dict[str, Any] = {}
    for name in bases:
        base = file.parent / f"{name}.yaml"
        if base.is_file():
            found |= content(base)
    own = OmegaConf.to_container(config, resolve=False)
    assert isinstance(own, dict)
    return found | {str(key): value for key, value in own.items()}
