"""Provenance of a verdict: commit, code and settings, and whether these are still the present ones."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from ftcli.config import job
from ftcli.config.paths import build_search_path
from ftcli.config.recipe import PLAN_PREFIX, Claim, Recipe, list_measures
from ftcli.config.yaml_locations import read_yaml
from ftcli.core import code
from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from ftcli.config import ComposedJob

PLANNED = "ftcli.reproduce.plan_figures"
#: Files of a commit that are extracted: all but the assets, whose hashes are part of a run.
SOURCES = (".", ":(exclude)ftcli/assets")
CODE = (
    "ftcli",
    "configs",
    "recipes/bases",
    "recipes/*/configs",
)  # what must be committed when a verdict is stored
CHANGED = "the code has changed"  # reason of a stale verdict; details may follow
EARLIER = "earlier"  # `rules` of a verdict that was stored without code and looks


class HistoryUnavailable(Exception):
    """The history of commits cannot be read here; the message says why."""


class CommitNotFound(Exception):
    """The complete history does not contain the requested object."""


@dataclass(frozen=True)
class Origin:
    """Commit, code, settings and libraries that produced a verdict.

    Attributes:
        commit: the commit of the repository; None outside one.
        roots: modules and option files from which its runs and its measure import.
        code: hash over the roots and everything that they import.
        settings: hash of job, variants and searched values in the recipe.
        libraries: library -> version.
    """

    commit: str | None
    roots: list[str]
    code: str
    settings: str
    libraries: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def find_origin(
    recipe: Recipe, claim: Claim, composed: Iterable[ComposedJob], tuned: Mapping[str, list[str]]
) -> Origin:
    """Return the origin of a verdict that is made now.

    Args:
        composed: the jobs, stages and bases that were run or planned for it.
        tuned: variant -> overrides that the search chose.
    """
    roots = find_roots(claim, composed)
    return Origin(
        current_commit(),
        roots,
        code.digest(roots),
        settings(recipe, claim, tuned),
        code.libraries(),
    )


def find_roots(claim: Claim, composed: Iterable[ComposedJob]) -> list[str]:
    """Return the modules and files behind a claim's figure: its measure, named classes, composed options."""
    jobs = list(composed)
    files = {
        place.file for composed_job in jobs for place in composed_job.origins.values() if place.file
    }
    inside = (f.relative_to(code.ROOT) for f in files if _is_option(f))
    roots = {*code.roots_of(*(composed_job.config for composed_job in jobs)), *map(str, inside)}
    if claim.measure in list_measures():
        roots.add(list_measures()[claim.measure].module)
    if claim.measure.startswith(PLAN_PREFIX):
        roots |= {PLANNED, "ftcli.planning.plan"}
    return sorted(roots)


def _is_option(file: Path) -> bool:
    """Whether a file is a packaged option of a group, general or of a paper."""
    return any(
        file.is_relative_to(folder)
        for folder in build_search_path()
        if folder.is_relative_to(code.ROOT)
    )


def settings(recipe: Recipe, claim: Claim, tuned: Mapping[str, list[str]]) -> str:
    """Return a hash of what the recipe says about the runs that a claim needs: 12 hex digits."""
    variants = recipe.list_claim_variants(claim)
    stated = [
        job_of(recipe.path),
        claim.given,
        {v: [*recipe.overrides(v, claim.scale), *tuned.get(v, [])] for v in variants},
    ]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


def job_of(path: Path) -> Any:
    """Return the values of the job in a recipe's file, without paper, claims and other recipe keys."""
    plain: Any = OmegaConf.to_container(read_yaml(path))
    return {key: value for key, value in plain.items() if key not in job.RECIPE_KEYS}


def explain_staleness(
    recipe: Recipe, claim: Claim, record: Mapping[str, Any], tuned: Mapping[str, list[str]]
) -> str | None:
    """Return why a stored verdict does not belong to the present code and recipe; None where it does."""
    if record.get("rules") == EARLIER:
        return None
    if record["settings"] != settings(recipe, claim, tuned):
        return "the recipe's settings have changed"
    last = record.get("confirmed", record)
    try:
        today = code.digest(last["roots"])
    except KeyError as error:
        return f"{CHANGED}: {error.args[0]} is gone"
    return None if today == last["code"] else CHANGED


def check_provenance(recipe: Recipe, identity: str, record: Mapping[str, Any]) -> str | None:
    """Return why no commit can have produced a stored verdict; None where one can.

    A verdict of the earlier rules must be in the verdict file of its commit with equal figures.

    Raises:
        HistoryUnavailable: there is no complete history of commits.
    """
    try:
        earlier = record.get("rules") == EARLIER
        why = _check_history(recipe, record) if earlier else _check_code(record)
        why = why or ("confirmed" in record and _check_code(record["confirmed"])) or None
    except CommitNotFound as error:
        why = str(error)
    return f"{identity}: {why}" if why else None


def _check_code(record: Mapping[str, Any]) -> str | None:
    try:
        if code.digest(record["roots"]) == record["code"]:
            return None
    except KeyError:
        pass  # the root may exist in the commit of the verdict
    at = record["commit"]
    try:
        digest = code.digest(record["roots"], extract_commit(at))
    except KeyError as error:
        return f"commit {at[:9]} has no {error.args[0]}"
    return None if digest == record["code"] else f"the code of commit {at[:9]} is {digest}"


def _check_history(recipe: Recipe, record: Mapping[str, Any]) -> str | None:
    keys = ("verdict", "why", "mean", "low", "high", "values")
    for verdict in _read_verdicts_at(record["commit"], recipe.name):
        if all(verdict.get(key) == record.get(key) for key in keys):
            return None
    return f"commit {record['commit'][:9]} holds no such verdict of {recipe.name}"


@cache
def _read_verdicts_at(at: str, name: str) -> list[dict[str, Any]]:
    """Return the verdicts of a recipe in the verdict file of a commit, in the format of the earlier rules."""
    files = run_git("ls-tree", "-r", "--name-only", at).decode().split("\n")
    file = next((file for file in files if Path(file).name == f"{name}.verdicts.json"), None)
    kept = json.loads(run_git("show", f"{at}:{file}")) if file else {}
    return [claim for scale in kept.values() for claim in scale.get("claims", [])]


def current_commit() -> str | None:
    """Return the checked-out commit; None outside a repository."""
    try:
        return run_git("rev-parse", "HEAD").decode().strip()
    except (HistoryUnavailable, CommitNotFound):
        return None


def require_commit(recipe: Recipe) -> None:
    """Refuse to store verdicts that no commit can have produced.

    Raises:
        UserError: there is no repository, or code or recipe differ from the commit.
    """
    try:
        status = run_git("status", "--porcelain", "--", *CODE, str(recipe.path)).decode()
    except HistoryUnavailable as error:
        what = f"a stored verdict names the commit that made it: {error}."
        raise UserError(what, "--store", "store in a clone of the repository") from error
    if status.strip():
        raise UserError(
            f"code or recipe differ from the commit: {', '.join(status.split()[1::2][:3])}.",
            "--store",
            "git commit first, so that the verdict can be made again",
        )


@cache
def extract_commit(at: str) -> Path:
    """Extract the sources of a commit into a temporary folder; returns the folder.

    Raises:
        HistoryUnavailable, CommitNotFound: the commit cannot be read.
    """
    folder = Path(tempfile.mkdtemp(prefix="ftcli-commit-"))
    with tarfile.open(fileobj=BytesIO(run_git("archive", at, "--", *SOURCES))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def run_git(*words: str) -> bytes:
    """Return the output of a git command on the repository of this package.

    Raises:
        HistoryUnavailable: there is no git, no repository, or its history is cut off.
        CommitNotFound: git has no such object.
    """
    if not (code.ROOT / ".git").exists():
        raise HistoryUnavailable("there is no git repository")
    try:
        done = subprocess.run(
            ["git", "-C", str(code.ROOT), *words], capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HistoryUnavailable(f"git cannot be run: {error}") from error
    if done.returncode == 0:
        return done.stdout
    if (
        words[0] != "rev-parse"
        and run_git("rev-parse", "--is-shallow-repository").strip() == b"true"
    ):
        raise HistoryUnavailable("the history is cut off (a shallow clone)")
    raise CommitNotFound(done.stderr.decode(errors="replace").strip())
