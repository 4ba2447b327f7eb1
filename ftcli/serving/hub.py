"""Publish the trained weights of a run on the hub, with a model card, after a look for secrets."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.core.redaction import redact, redact_tree
from ftcli.core.run_dir import RunDir
from ftcli.run.report import read_config

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

CARD = "README.md"
#: What transformers, PEFT and diffusers write: weights, settings, tokenizer. Nothing else is sent.
SENT = re.compile(r".+\.(safetensors|json|jinja|model)|(merges|vocab)\.txt")


@dataclass(frozen=True)
class Publication:
    """The files that are sent to the hub.

    Attributes:
        files: file -> bytes, the card included.
        left_out: files of the folder that are no part of a model.
        notes: what a reader of the repository will miss.
        address: of the commit; None before it is sent.
    """

    repo: str
    private: bool
    files: dict[str, int]
    left_out: list[str]
    notes: list[str]
    card: str
    address: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for --json."""
        return vars(self)

    def sentence(self) -> str:
        """Return lines for the terminal: files, notes, and where they are; before sending also the card."""
        lines = [f"{size:>14,}  {name}" for name, size in self.files.items()]
        lines += [f"not sent: {', '.join(self.left_out)}"] if self.left_out else []
        lines += [f"note: {note}" for note in self.notes]
        kind = "private repository" if self.private else "repository, public if new"
        if self.address is None:
            lines.append(f"nothing was sent; --dry-run left out, this goes to {self.repo} ({kind})")
            return "\n".join([self.card, *lines])
        return "\n".join([*lines, f"sent to {self.address}"])


def publish_run(
    path: str | Path,
    repo: str,
    checkpoint: str = "last",
    merged: bool = False,
    private: bool = False,
    licence: str | None = None,
    dry_run: bool = False,
) -> Publication:
    """Send the adapter or model of a run to a repository of the hub, which is made where it is missing.

    Args:
        repo: `owner/name`.
        merged: merge the adapter into its base and send one plain model.
        licence: for the card; None: that of the base.
        dry_run: return what would be sent; the network is not used.

    Raises:
        UserError: the name is not valid, a file holds a secret, or the hub refuses card or files.
    """
    _check_name(repo)
    folder = RunDir.open(path).path
    if not dry_run:
        _require_token()
    with _prepare_files(folder, checkpoint, merged) as (place, artefact):
        card = _build_card(folder, artefact, repo, licence)
        files = sorted(file for file in place.rglob("*") if file.is_file() and file.name != CARD)
        sent = [file for file in files if SENT.fullmatch(file.name)]
        _refuse_secrets(sent)
        named = {str(file.relative_to(place)): file for file in sent}
        publication = Publication(
            repo, private,
            {CARD: len(str(card).encode()), **{n: f.stat().st_size for n, f in named.items()}},
            [file.name for file in files if file not in sent], _find_gaps(card), str(card),
        )  # fmt: skip
        if dry_run:
            return publication
        address = _send(card, named, publication)
    return Publication(**{**vars(publication), "address": address})


def _check_name(repo: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{repo}: {error}", "--repo", "--repo OWNER/NAME") from error
    if "/" not in repo:
        raise UserError(f"{repo} names no owner.", "--repo", f"--repo OWNER/{repo}")


def _require_token() -> None:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be sent.", fix="unset it")
    if not get_token():
        raise UserError(
            "no token of the hub is set.", fix="hf auth login; or look first: --dry-run"
        )


@contextmanager
def _prepare_files(folder: Path, checkpoint: str, merged: bool) -> Iterator[tuple[Path, str]]:
    """Yield the folder of weights to send, and whether it is an `adapter` or a `model`.

    The final weights lie in the run; others are written to a temporary folder.
    """
    final = next((folder / n for n in ("adapter", "model") if (folder / n).is_dir()), None)
    finished = RunDir(folder).result().get("status") == "finished"
    if final and finished and checkpoint == "last" and not merged:
        yield final, final.name
        return
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "model"
        if merged:
            from ftcli.deltas.merge import merge_run

            merge_run(folder, target, checkpoint)
            yield target, "model"
            return
        from ftcli.run.build import open_run
        from ftcli.run.finish import save_artefact

        run = open_run(folder, checkpoint=checkpoint)
        with run.evaluation_weights():
            save_artefact(run, target)
        yield target, run.method.artefact


def _build_card(folder: Path, artefact: str, repo: str, licence: str | None) -> ModelCard:
    from ftcli.serving.hub_card import build_card

    base = str(read_config(folder).get("model", {}).get("path"))
    card = build_card(folder, artefact, repo, licence)
    if artefact == "adapter" and not card.data.to_dict().get("base_model"):
        raise UserError(
            f"the adapter's base, {base}, is a folder of this machine, from which nobody else can load.",
            where="model.path",
            fix="--merged sends base and adapter as one model",
        )
    return card


def _refuse_secrets(files: list[Path]) -> None:
    """Look through settings, templates and headers of weights.

    Raises:
        UserError: one holds a value of a secret variable, or what has the name or form of a secret.
    """
    for file in files:
        found = _find_secret(_read(file))
        if found is not None:
            raise UserError(
                f"{file.name} holds what seems to be a secret{f', at {found}' if found else ''}. "
                "Nothing was sent.",
                where=str(file),
                fix="remove it from the file",
            )


def _read(file: Path) -> Any:
    """The texts in a file: its JSON, its text, or the metadata of its tensors."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="np") as tensors:
            return tensors.metadata() or {}
    text = file.read_text(encoding="utf-8", errors="replace")
    return json.loads(text) if file.suffix == ".json" else text


def _find_secret(value: Any, name: str = "", place: str = "") -> str | None:
    """The place of the first secret in nested values; None where there is none."""
    if isinstance(value, dict):
        inner = [(str(key), inside) for key, inside in value.items()]
    elif isinstance(value, list):
        inner = [(name, inside) for inside in value]
    else:
        return place if redact_tree(value, name) != value else None
    found = (_find_secret(i, key, key if not place else f"{place}.{key}") for key, i in inner)
    return next((where for where in found if where is not None), None)


def _find_gaps(card: ModelCard) -> list[str]:
    data, gaps = card.data.to_dict(), []
    if not data.get("license"):
        gaps.append("the card has no licence, because that of the base is not known: --license ID")
    if str(data.get("base_model", "")).startswith("ftcli/"):
        gaps.append("the base ships with ftcli: readers need ftcli to load it")
    if "not recorded with the data" in card.text:
        gaps.append("the licence of the data is not known; find it out before others use the model")
    return gaps


def _send(card: ModelCard, files: dict[str, Path], about: Publication) -> str:
    """Check the card at the hub, make the repository, send one commit; returns its address."""
    from huggingface_hub import CommitOperationAdd, HfApi

    from ftcli.models.hub import quiet_progress_bars

    add = CommitOperationAdd
    operations = [add(CARD, str(card).encode()), *(add(n, f) for n, f in files.items())]
    try:
        card.validate()
        HfApi().create_repo(about.repo, private=about.private, exist_ok=True)
        with quiet_progress_bars():
            commit = HfApi().create_commit(
                about.repo, operations, commit_message="Weights and card by ftcli"
            )
    except Exception as error:  # among them the HTTP library's own classes: no route, no answer
        raise _explain(error, about.repo) from error
    return str(commit.commit_url)


def _explain(error: Exception, repo: str) -> UserError:
    from huggingface_hub import constants

    text = redact(" ".join(str(error).split())) or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return UserError("the hub does not know the token (401).", fix="hf auth login")
    if status == 403:
        owner = repo.partition("/")[0]
        return UserError(
            f"the token may not write to {owner} (403).",
            "--repo",
            "a token with the right to write",
        )
    if isinstance(error, ValueError) and status is None:
        return UserError(f"the hub refuses the card: {text}", fix="see it: --dry-run")
    if status is None:
        return UserError(f"{constants.ENDPOINT} cannot be reached ({text[:300]}).", fix="try again")
    return UserError(f"the hub refuses ({status}): {text[:300]}", fix="see what is sent: --dry-run")
