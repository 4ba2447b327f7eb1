"""Whether a model's weights are on this machine, and if not, whether the hub would give them."""

from __future__ import annotations

from typing import Any

from ftcli.core.errors import UserError
from ftcli.planning.findings import Finding, failed, ok, unknown, warn


def weights_finding(source: Any) -> Finding:
    """Where the weights of a model source are.

    Raises:
        UserError: there is no such folder or asset, or its files do not fit the model.
    """
    from ftcli.models import hub

    path = hub.resolve(source.path)
    if getattr(source, "weights", None) == "random":
        return ok("model", f"{source.path}: new weights, none are read")
    if source.weight_files():
        note = source.check_files()
        place = "weights are here" if hub.is_local(path) else "weights are in the local cache"
        return ok("model", f"{source.path}: {place}{f'; {note}' if note else ''}")
    if hub.is_local(path):
        return failed("model", UserError(
            f"{source.path} holds no weights as *.safetensors.", "model.path",
            "model.path=FOLDER with weights",
        ))  # fmt: skip
    try:
        hub.ask(path, source.revision)
        source.check_files()  # what its configuration alone says
    except UserError as error:
        return (failed if _refused(error) else unknown)("model", error)
    return warn("model", f"{path} is not on this machine; training will download it first")


def _refused(error: UserError) -> bool:
    """Whether the hub answered no, rather than not at all."""
    from huggingface_hub import errors

    answers = (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    return isinstance(error.__cause__, answers)
