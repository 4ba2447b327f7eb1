"""card.md: the model card of what a run trained, ready for the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli import __version__
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
    """Write card.md from the run's own files; returns its path."""
    folder = Path(run_dir.path)
    config, data = read_config(folder), read_json(folder / "data.json")
    result = run_dir.result()
    parts = [
        _front_matter(config),
        f"# {title(folder)}",
        _sources(config, data),
        f"## Scores\n\n{scores_table(result)}" if scores_table(result) else "",
        f"## Training\n\n{figures_table(result)}" if figures_table(result) else "",
        f"## Command\n\nWith ftcli {__version__}:\n\n{repeat(folder)}",
    ]
    path = folder / "card.md"
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _front_matter(config: dict[str, Any]) -> str:
    """The YAML head that the Hub reads."""
    base = config.get("model", {}).get("path")
    hub = isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "/"))
    adapter = "peft" in str(config.get("method", {}).get("_target_", ""))
    lines = [f"base_model: {base}"] if hub else []
    lines += ["library_name: peft" if adapter else "library_name: transformers", "tags: [ftcli]"]
    return "\n".join(["---", *lines, "---"])


def _sources(config: dict[str, Any], data: dict[str, Any]) -> str:
    licence = data.get("licence") or data.get("license") or UNKNOWN
    return table(
        ("source", "what"),
        [
            ("base model", config.get("model", {}).get("path", "?")),
            ("data", config.get("data", {}).get("path", "?")),
            ("licence of the data", licence),
            ("content hash of the data", data.get("fingerprint", data.get("hash", "?"))),
        ],
    )
