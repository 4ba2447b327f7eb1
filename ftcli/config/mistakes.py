"""What Hydra and OmegaConf complain about, in one sentence with file, line and the nearest names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from ftcli.config import marks, paths
from ftcli.config.composed import leaves
from ftcli.config.nearest import nearest
from ftcli.config.overrides import Word
from ftcli.core.errors import Problems, UserError

_ABSENT = re.compile(r"Could not (?:override|delete) '(?P<key>[\w/]+)(?:=.*)?'\.\s*No match")
_OPEN = re.compile(r"You must specify '(?P<group>[\w/]+)'")
_INTERPOLATION = "${a.key} gives the value of a.key; a plain ${ is written \\${"
_PARENT = re.compile(r"In '(?P<parent>[^']+)'")


def absent_group(error: Exception, words: Sequence[Word]) -> Word | None:
    """The override that picks (or drops) a group which the defaults list does not have."""
    found = _ABSENT.search(str(error))
    if not found:
        return None
    return next((w for w in words if w.picks and w.key == found["key"]), None)


def explained(
    error: Exception, job: Path, words: Sequence[Word], folders: Sequence[Path]
) -> UserError:
    """One message for an error of composition."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing(error, error.missing_cfg_file, job, words, folders)
    if isinstance(error, yaml.YAMLError):
        return marks.syntax_error(error)
    open_ = _OPEN.search(str(error))
    if open_:
        group = open_["group"]
        return UserError(
            f"{group} is left open (???).",
            where=_where(error, job, group, folders),
            fix=f"{group}=NAME, with a name of: ftcli ls {paths.plural(group)}",
        )
    cause = error.__cause__ if not str(error) and error.__cause__ else error
    text = _first_sentence(str(cause))
    return UserError(text, where=_blamed(text, job, words, folders), fix="ftcli show JOB")


def _missing(
    error: MissingConfigException,
    name: str,
    job: Path,
    words: Sequence[Word],
    folders: Sequence[Path],
) -> UserError:
    group, _, option = name.rpartition("/")
    option = option.removesuffix(".yaml")
    if not group:
        known = [p.stem for folder in folders for p in folder.glob("*.yaml")]
        return UserError(
            f"'{option}' in the defaults list: no such file.{_closest(option, known)}",
            where=_where(error, job, option, folders),
            fix="ftcli ls jobs",
        )
    known = list(paths.options(group, list(folders)))
    if group.startswith("hydra/"):
        fix = f"install the plugin that brings it: pip install hydra-{option}-{group[6:]}"
        return UserError(
            f"{group}={option}: no such {group}.", _where(error, job, group, folders), fix
        )
    top, _, rest = f"{group}/{option}".partition("/")
    typed = any(w.key == top for w in words)
    near = nearest(rest, list(paths.options(top, list(folders))))
    fix = f"{len(known)} available: ftcli ls {paths.plural(top)}"
    if _is_place(rest):
        way = {"data": f"ftcli init --data {rest}", "model": f"model.path={rest}"}
        fix = way.get(top, f"see: ftcli schema {top}")
    elif near:
        fix = f"{top}={near[0]}; " + fix
    return UserError(
        f"{top}={rest}: no such {top}.{_closest(rest, known)}",
        where="command line" if typed else _where(error, job, group, folders),
        fix=fix,
    )


def _is_place(name: str) -> bool:
    """Whether the name of an option is rather a file, a folder or a hub id."""
    return "/" in name or name.startswith((".", "~")) or Path(name).exists() or "." in name


def _closest(word: str, known: Sequence[str]) -> str:
    found = nearest(word, known)
    return f" Closest: {', '.join(found)}." if found else ""


def _where(error: Exception, job: Path, group: str, folders: Sequence[Path]) -> str:
    """The line of the defaults list that asks for a group: the parent is named in Hydra's message."""
    file = _parent(str(error), job, folders)
    line = marks.default_line(file, group)
    return f"{paths.shown(file)}:{line}" if line else paths.shown(file)


def _parent(text: str, job: Path, folders: Sequence[Path]) -> Path:
    found = _PARENT.search(text)
    if found:
        for folder in folders:
            file = folder / f"{found['parent'].removesuffix('.yaml')}.yaml"
            if file.is_file():
                return file
    return job


def _blamed(text: str, job: Path, words: Sequence[Word], folders: Sequence[Path]) -> str:
    typed = [w.text.partition("=")[0].lstrip("+~") for w in words]
    if any(w.text in text for w in words) or any(f"'{name}'" in text for name in typed):
        return "command line"
    return paths.shown(_parent(text, job, folders))


def _first_sentence(text: str) -> str:
    """The complaint without Hydra's advice, links and lists of folders."""
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


def resolved(config: DictConfig, where: Callable[[str], str], job: Path) -> dict[str, Any]:
    """The configuration as plain values, interpolations filled in; `???` stays.

    Raises:
        UserError: interpolations that lead nowhere, all of them together.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        problems = list(_broken(config, where))
        Problems.raise_if_any(problems)
        raise UserError(
            _first_sentence(str(error)), where=paths.shown(job), fix=_INTERPOLATION
        ) from error
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def _broken(config: DictConfig, where: Callable[[str], str]) -> list[UserError]:
    try:
        raw = OmegaConf.to_container(config, resolve=False)
    except OmegaConfBaseException as error:  # `${` that does not close
        key = str(error.full_key or "")
        what = f"{key}: {_first_sentence(str(error))}"
        return [UserError(what, where(key), _INTERPOLATION)]
    assert isinstance(raw, dict)
    known = [key for key, _ in leaves(raw)]
    problems = []
    for key, value in leaves(raw):
        try:
            chosen = OmegaConf.select(config, key, throw_on_resolution_failure=True)
            if OmegaConf.is_config(chosen):
                OmegaConf.to_container(chosen, resolve=True, throw_on_missing=False)
        except OmegaConfBaseException as error:
            what = _why(error, key, value, known)
            problems.append(UserError(what, where(key), _INTERPOLATION))
    roots = [p for p in problems if "there is no key" in p.what]
    return roots or problems  # what points at a broken key is broken by that key


def _why(error: OmegaConfBaseException, key: str, value: Any, known: Sequence[str]) -> str:
    if isinstance(error, InterpolationKeyError):
        words = re.findall(r"\$\{([\w.]+)\}", str(value))
        lost = [w for w in words if not any(k == w or k.startswith(f"{w}.") for k in known)]
        if lost:
            near = nearest(lost[0], known, 1)
            hint = f" Did you mean ${{{near[0]}}}?" if near else ""
            return f"{key}={value}: there is no key '{lost[0]}'.{hint}"
    return f"{key}={value}: {_first_sentence(str(error))}"
