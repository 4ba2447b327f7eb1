"""Train the base that a job starts from, once on this machine; see `ftcli.config.base_recipe`."""

from __future__ import annotations

from typing import Any

from ftcli.config.base_recipe import base_job, is_there, run_folder
from ftcli.core.errors import UserError


def ensure_base(composed: Any) -> None:
    """Train the base that a job starts from, unless that has been done.

    Raises:
        UserError: training it failed, or it left no whole model.
    """
    from ftcli.jobs.trial import complete_job

    if is_there(composed):
        return
    base = base_job(composed.base)
    folder = run_folder(base)
    folder.parent.mkdir(parents=True, exist_ok=True)
    complete_job(base, folder, quiet=False)
    if not (folder / "model").is_dir():
        raise UserError(
            f"{composed.base} trains no whole model.",
            where=composed.where("model.path"),
            fix="a base is trained with method=full",
        )
