"""The base model of a run: recorded when the run begins, and refused later where its files differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ftcli.core.atomic import write_json
from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from ftcli.core.run import Run

FILE = "base.json"
BaseCheck = Literal["recorded", "compared", "not needed", "files missing"]


def record_or_check_base(run: Run) -> BaseCheck:
    """Record the base of a run that begins, or compare it with the recorded one in a later process.

    Returns:
        What was done; `files missing` where the files are not on this machine yet, so that neither
        could be.

    Raises:
        UserError: the base is not the one that the run was trained on.
    """
    if run.dir is None or not run.accelerator.is_main_process:
        return "not needed"
    if (run.dir.path / FILE).exists():
        compared = refuse_other_base(run.dir.path, run.model_source)
        return "compared" if compared else "files missing"
    if any(run.dir.checkpoints.glob("step-*")):
        return (
            "not needed"  # begun by a version that did not record it; today's files prove nothing
        )
    return "recorded" if record_base(run.dir.path, run.model_source) else "files missing"


def record_base(folder: Path, source: Any) -> bool:
    """Write base.json into a run directory; returns False where the model's files are not on this machine."""
    described = describe_base(source)
    if described is not None:
        write_json(folder / FILE, described)
    return described is not None


def describe_base(source: Any) -> dict[str, Any] | None:
    """Return path, commit and SHA-256 of each file of a model; None where they are not on this machine."""
    if getattr(source, "weights", None) == "random":
        return {"path": source.path, "weights": "random", "commit": None, "files": {}}
    parts = source.weight_files()
    if not parts:
        return None
    files = {name: digest for part in parts for name, digest in part.hashes().items()}
    return {"path": source.path, "commit": parts[0].commit, "files": files}


def refuse_other_base(folder: Path, source: Any) -> bool:
    """Compare the files of a model with those that a run recorded.

    Returns:
        False where its files are not on this machine yet.

    Raises:
        UserError: a file has other content, is missing or was added.
    """
    if not (folder / FILE).is_file():
        return True
    then, now = json.loads((folder / FILE).read_text(encoding="utf-8")), describe_base(source)
    if now is None:
        return False
    names = sorted({*then["files"], *now["files"]})
    changed = [name for name in names if then["files"].get(name) != now["files"].get(name)]
    if changed:
        raise _build_change_error(folder, then, now, changed)
    return True


def _build_change_error(
    folder: Path, then: dict[str, Any], now: dict[str, Any], changed: list[str]
) -> UserError:
    def short(base: dict[str, Any], name: str) -> str:
        return base["files"].get(name, "absent")[:12]

    what = "; ".join(
        f"{name} was {short(then, name)}, now {short(now, name)}" for name in changed[:3]
    )
    more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
    commit = then["commit"]
    moved = f" (commit {commit[:12]}, now {str(now['commit'])[:12]})" if commit else ""
    pinned = (
        f"model.revision={commit} in its config.yaml"
        if commit
        else f"put the files of {then['path']} back"
    )
    return UserError(
        f"the base {now['path']}{moved} is not the one that {folder} was trained on: {what}{more}.",
        where=str(folder / FILE),
        fix=f"{pinned}; or ftcli train {folder}/config.yaml, which trains on what is there now",
    )
