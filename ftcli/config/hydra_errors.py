"""Turn errors of Hydra and OmegaConf into one sentence with file, line and the nearest names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from ftcli.config import paths
from ftcli.config.job import iter_leaves
from ftcli.config.overrides import Override
from ftcli.config.paths import find_nearest
from ftcli.config.yaml_locations import find_default_line, make_syntax_error
from ftcli.core.errors import Problems, UserError

_ABSENT = re.compile(r"Could not (?:override|delete) '(?P<key>[\w/]+)(?:=.*)?'\.\s*No match")
_LEFT_OPEN = re.compile(r"You must specify '(?P<group>[\w/]+)'")
_INTERPOLATION = "${a.key} gives the value of a.key; a plain ${ is written \\${"
_PARENT = re.compile(r"In '(?P<parent>[^']+)'")


def find_absent_group(error: Exception, overrides: Sequence[Override]) -> Override | None:
    """Return the override that selects or deletes a group missing from the defaults list, if the error says so."""
    match = _ABSENT.search(str(error))
    if not match:
        return None
    return next(
        (
            override
            for override in overrides
            if override.selects_option and override.key == match["key"]
        ),
        None,
    )


def explain_error(
    error: Exception, job_file: Path, overrides: Sequence[Override], folders: Sequence[Path]
) -> UserError:
    """Convert an error of composition to a UserError."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_missing_config(error, error.missing_cfg_file, job_file, overrides, folders)
    if isinstance(error, yaml.YAMLError):
        return make_syntax_error(error)
    left_open = _LEFT_OPEN.search(str(error))
    if left_open:
        group = left_open["group"]
        return UserError(
            f"{group} is left open (???).",
            where=_locate_choice(error, job_file, group, folders),
            fix=f"{group}=NAME, with a name of: ftcli ls {paths.pluralize_group(group)}",
        )
    cause = error.__cause__ if not str(error) and error.__cause__ else error
    text = _extract_sentence(str(cause))
    return UserError(
        text, where=_find_culprit(text, job_file, overrides, folders), fix="ftcli show JOB"
    )


def _explain_missing_config(
    error: MissingConfigException,
    name: str,
    job_file: Path,
    overrides: Sequence[Override],
    folders: Sequence[Path],
) -> UserError:
    group, _, option = name.rpartition("/")
    option = option.removesuffix(".yaml")
    if not group:
        names = [p.stem for folder in folders for p in folder.glob("*.yaml")]
        return UserError(
            f"'{option}' in the defaults list: no such file.{_format_closest(option, names)}",
            where=_locate_choice(error, job_file, option, folders),
            fix="ftcli ls jobs",
        )
    names = list(paths.list_options(group, list(folders)))
    if group.startswith("hydra/"):
        fix = f"install the plugin that brings it: pip install hydra-{option}-{group[6:]}"
        return UserError(
            f"{group}={option}: no such {group}.",
            _locate_choice(error, job_file, group, folders),
            fix,
        )
    top, _, rest = f"{group}/{option}".partition("/")
    typed = any(override.key == top for override in overrides)
    near = find_nearest(rest, list(paths.list_options(top, list(folders))))
    fix = f"{len(names)} available: ftcli ls {paths.pluralize_group(top)}"
    if _is_path(rest):
        way = {"data": f"ftcli init --data {rest}", "model": f"model.path={rest}"}
        fix = way.get(top, f"see: ftcli schema {top}")
    elif near:
        fix = f"{top}={near[0]}; " + fix
    return UserError(
        f"{top}={rest}: no such {top}.{_format_closest(rest, names)}",
        where="command line" if typed else _locate_choice(error, job_file, group, folders),
        fix=fix,
    )


def _is_path(name: str) -> bool:
    """Whether the name of an option looks like a file, a folder or a hub id."""
    return "/" in name or name.startswith((".", "~")) or Path(name).exists() or "." in name


def _format_closest(name: str, known: Sequence[str]) -> str:
    nearest = find_nearest(name, known)
    return f" Closest: {', '.join(nearest)}." if nearest else ""


def _locate_choice(error: Exception, job_file: Path, group: str, folders: Sequence[Path]) -> str:
    """Return file:line of the defaults list that selects a group; Hydra's message names the file."""
    file = _find_parent(str(error), job_file, folders)
    line = find_default_line(file, group)
    return f"{paths.format_path(file)}:{line}" if line else paths.format_path(file)


def _find_parent(text: str, job_file: Path, folders: Sequence[Path]) -> Path:
    match = _PARENT.search(text)
    if match:
        for folder in folders:
            file = folder / f"{match['parent'].removesuffix('.yaml')}.yaml"
            if file.is_file():
                return file
    return job_file


def _find_culprit(
    text: str, job_file: Path, overrides: Sequence[Override], folders: Sequence[Path]
) -> str:
    typed = [override.text.partition("=")[0].lstrip("+~") for override in overrides]
    if any(override.text in text for override in overrides) or any(
        f"'{name}'" in text for name in typed
    ):
        return "command line"
    return paths.format_path(_find_parent(text, job_file, folders))


def _extract_sentence(text: str) -> str:
    """Return the first sentences of a message, without Hydra's hints, links and lists of folders."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [
        line
        for line in lines
        if not line.startswith(
            ("full_key", "object_type", "reference_type", "To append", "See http")
        )
    ]
    sentence = " ".join(kept[:3]).replace("_ftcli_job_", "the job").split(" Config search path")[0]
    return sentence if sentence.endswith("?") else sentence.rstrip(".") + "."


def resolve_interpolations(
    config: DictConfig, where: Callable[[str], str], job_file: Path
) -> dict[str, Any]:
    """Convert a configuration to plain values with its interpolations resolved; `???` stays.

    Args:
        where: gives the origin of a key (file:line).

    Raises:
        UserError: an interpolation cannot be resolved; Problems: several.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        problems = list(_find_broken(config, where))
        Problems.raise_if_any(problems)
        raise UserError(
            _extract_sentence(str(error)), where=paths.format_path(job_file), fix=_INTERPOLATION
        ) from error
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def _find_broken(config: DictConfig, where: Callable[[str], str]) -> list[UserError]:
    try:
        raw = OmegaConf.to_container(config, resolve=False)
    except OmegaConfBaseException as error:  # `${` that does not close
        key = str(error.full_key or "")
        what = f"{key}: {_extract_sentence(str(error))}"
        return [UserError(what, where(key), _INTERPOLATION)]
    assert isinstance(raw, dict)
    keys = [key for key, _ in iter_leaves(raw)]
    problems = []
    for key, value in iter_leaves(raw):
        try:
            chosen = OmegaConf.select(config, key, throw_on_resolution_failure=True)
            if OmegaConf.is_config(chosen):
                OmegaConf.to_container(chosen, resolve=True, throw_on_missing=False)
        except OmegaConfBaseException as error:
            what = _explain_interpolation(error, key, value, keys)
            problems.append(UserError(what, where(key), _INTERPOLATION))
    roots = [p for p in problems if "there is no key" in p.what]
    return roots or problems  # a reference to a broken key fails only because of that key


def _explain_interpolation(
    error: OmegaConfBaseException, key: str, value: Any, keys: Sequence[str]
) -> str:
    if isinstance(error, InterpolationKeyError):
        references = re.findall(r"\$\{([\w.]+)\}", str(value))
        unknown = [
            reference
            for reference in references
            if not any(k == reference or k.startswith(f"{reference}.") for k in keys)
        ]
        if unknown:
            near = find_nearest(unknown[0], keys, 1)
            hint = f" Did you mean ${{{near[0]}}}?" if near else ""
            return f"{key}={value}: there is no key '{unknown[0]}'.{hint}"
    return f"{key}={value}: {_extract_sentence(str(error))}"
