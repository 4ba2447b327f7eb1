"""Whether a model's weights are on this machine, and if not, whether the hub would give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.errors import UserError
from ftcli.planning.findings import Finding, failed, ok, unknown, warn

FILES = ("model.safetensors", "model.safetensors.index.json")


def weights_finding(source: Any) -> Finding:
    """Where the weights of a model source are.

    Raises:
        UserError: there is no such folder or asset.
    """
    from ftcli.models import hub

    path = hub.resolve(source.path)
    if getattr(source, "weights", None) == "random":
        return ok("model", f"{source.path}: new weights, none are read")
    if hub.is_local(path):
        if any(Path(path).glob("*.safetensors")):
            return ok("model", f"{source.path}: weights are here")
        return failed("model", UserError(
            f"{source.path} holds no *.safetensors.", "model.path", "model.path=FOLDER with weights"
        ))  # fmt: skip
    if _cached(path, source.revision):
        return ok("model", f"{path}: weights are in the local cache")
    try:
        hub.ask(path, source.revision)
    except UserError as error:
        return (failed if _refused(error) else unknown)("model", error)
    return warn("model", f"{path} is not on this machine; training will download it first")


def _cached(path: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(path, name, revision=revision or "main") for name in FILES)
    return any(isinstance(file, str) for file in found)


def _refused(error: UserError) -> bool:
    """Whether the hub answered no, rather than not at all."""
    from huggingface_hub import errors

    answers = (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    return isinstance(error.__cause__, answers)
