"""Train the base that a job starts from, once on this machine; see `ftcli.config.composition`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftcli.config.composition import compose_base, is_base_trained, locate_base_run
from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from ftcli.config import ComposedJob


def train_missing_base(composed: ComposedJob) -> None:
    """Train the base that a job starts from, unless its finished model exists on this machine.

    Raises:
        UserError: training the base failed, or it left an adapter and no whole model.
    """
    from ftcli.jobs.trial import complete_job

    if is_base_trained(composed):
        return
    assert composed.base_job is not None
    base = compose_base(composed.base_job)
    folder = locate_base_run(base)
    folder.parent.mkdir(parents=True, exist_ok=True)
    complete_job(base, folder, quiet=False)
    if not (folder / "model").is_dir():
        raise UserError(
            f"{composed.base_job} trains no whole model.",
            where=composed.where("model.path"),
            fix="a base is trained with method=full",
        )
