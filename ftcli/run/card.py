"""card.md: the model card of what a run trained, ready for the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli import __version__
from ftcli.inert import in_markdown
from ftcli.run.atomic import write_text
from ftcli.run.report import (
    figures_table,
    read_config,
    read_json,
    repeat,
    scores_table,
    table,
    title,
)

if TYPE_CHECKING:
    from ftcli.run.rundir import RunDir

UNKNOWN = "not recorded with the data; find it out before sharing the model"


def write_card(run_dir: RunDir) -> Path:
    """Write card.md, and the same as README.md beside the trained weights; returns its path.

    The library writes an empty form there, which would otherwise be what the Hub shows.
    """
    folder = Path(run_dir.path)
    config, data = read_config(folder), read_json(folder / "data.json")
    result = run_dir.result()
    parts = [
        _front_matter(config),
        f"# {title(folder)}",
        _sources(config, data),
        f"## Licence of the data\n\n{_licence(data)}",
        f"## Scores\n\n{scores_table(result)}" if scores_table(result) else "",
        f"## Training\n\n{figures_table(result)}" if figures_table(result) else "",
        f"## Command\n\nWith ftcli {__version__}:\n\n{repeat(folder)}",
    ]
    path = folder / "card.md"
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_text(path, text)
    for artefact in ("adapter", "model"):
        if (folder / artefact).is_dir():
            write_text(folder / artefact / "README.md", text)
    return path


def _front_matter(config: dict[str, Any]) -> str:
    """The YAML head that the Hub reads."""
    base = config.get("model", {}).get("path")
    hub = isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "/"))
    lines = [f"base_model: {json.dumps(base)}"] if hub else []
    lines += [f"library_name: {_library(config)}", "tags: [ftcli]"]
    return "\n".join(["---", *lines, "---"])


def _library(config: dict[str, Any]) -> str:
    """What loads the trained artefact."""
    from ftcli.config.signature import NoSuchClass, read

    try:
        artefact = read(config["method"]["_target_"]).attributes.get("artefact")
    except (KeyError, NoSuchClass):
        artefact = None
    return "peft" if artefact == "adapter" else "transformers"


def _sources(config: dict[str, Any], data: dict[str, Any]) -> str:
    rows = [
        ("base model", config.get("model", {}).get("path")),
        ("data", config.get("data", {}).get("path")),
        ("revision of the data", data.get("revision")),
        ("content hash of the data", data.get("fingerprint")),
    ]
    return table(("source", "what"), [row for row in rows if row[1]])


def _licence(data: dict[str, Any]) -> str:
    """As it came with the data, a licence file's headings left out."""
    lines = str(data.get("licence") or UNKNOWN).splitlines()
    return in_markdown("\n".join(line for line in lines if not line.startswith("#")).strip())
