"""A command line as another program would want it, read as what it means here.

Looked at only after something went wrong: flags in the place of `key=value`, the job behind its
settings or behind `--config`, blanks around `=`, `-m` for a sweep.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ftcli.cli.verb_loader import find_verbs, load_verb
from ftcli.config import compose, overrides, paths
from ftcli.config.suggestions import find_setting
from ftcli.core.errors import UserError

CONFIG_FLAGS = ("config", "config-name", "config-file", "config-path", "yaml", "c")
SWEEP_FLAGS = ("m", "multirun")
SETTING = re.compile(r"[~+]*[\w./@]+=")
COLON = re.compile(r"([a-z_][\w.]*)(?::\s*|\s+)(\S+)")  # `lr: 1e-4`, "lr 1e-4"
DEFAULT_JOB = "qlora_llama"


@dataclass
class CommandLine:
    """What a command line says, word by word.

    Attributes:
        said: what was found to be written otherwise.
        options: words that the verb itself knows.
        lost: flags that mean nothing here.
    """

    verb: str
    said: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def command(self) -> str:
        """The whole command as it is written here; of several jobs, one after the other."""
        more = [*map(_quote_value, self.settings), *self.options]
        lines = [["ftcli", self.verb, job, *more] for job in self.jobs or [DEFAULT_JOB]]
        return " && ".join(" ".join(map(overrides.quote_for_shell, words)) for words in lines)


def explain_command_line(words: Sequence[str], error: UserError) -> UserError:
    """The error, or what is said of the command line where that is written for another program."""
    try:
        reading = read_command_line(list(words))
    except Exception:  # what is wrong is said in the error that is there already
        return error
    if reading is None or not reading.said:
        return error
    what = "; ".join(dict.fromkeys(reading.said)) + "."
    fix = "see: ftcli schema" if reading.lost else reading.command()
    return UserError(what, "command line", fix, error.code)


def read_command_line(words: list[str]) -> CommandLine | None:
    """What the words mean; None where they are not those of a verb that takes a job and settings."""
    words = [word for word in words if word not in ("--debug", "-q", "--quiet", "--")]
    verb = next((word for word in words if word in find_verbs()), None)
    if verb is not None:
        words.remove(verb)
    elif not words or not (words[0].startswith("-") or _is_job(words[0])):
        return None
    reading = CommandLine(verb or "train", [] if verb else ["a verb comes first"])
    params = {param.name: param for param in load_verb(reading.verb).params}
    if not {"job", "overrides"} <= params.keys():
        return None
    known = {opt: param for param in params.values() for opt in getattr(param, "opts", ())}
    _read_words(_join_settings(words, reading), known, reading)
    _check_order(words, reading, bool(getattr(params["job"], "required", True)))
    if reading.said:
        reading.settings = [_complete_key(word, reading) for word in reading.settings]
    return reading


def _join_settings(words: list[str], reading: CommandLine) -> list[str]:
    """`key = value`, `key= value` and `key =value` as one word each."""
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        opens = before.endswith("=") and SETTING.fullmatch(before) and not SETTING.match(word)
        closes = word.startswith("=") and re.fullmatch(r"[\w.]+", before)
        if opens or closes:
            joined[-1] += word
            reading.said.append("a setting has no blanks around its =")
        else:
            joined.append(word)
    return joined


def _read_words(words: list[str], known: dict[str, Any], reading: CommandLine) -> None:
    while words:
        word = words.pop(0)
        flag, _, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            _read_positional(word, reading)
        elif flag in known:
            reading.options.append(word)
            if not value and not getattr(known[flag], "is_flag", False) and words:
                reading.options.append(words.pop(0))
        else:
            near = difflib.get_close_matches(flag, known, 1, 0.8)
            if near:
                reading.said.append(f"{flag} is written {near[0]}")
                words.insert(0, near[0] + (f"={value}" if value else ""))
            else:
                _read_flag(flag.lstrip("-"), value, words, reading)


def _read_positional(word: str, reading: CommandLine) -> None:
    colon = COLON.fullmatch(word)
    if SETTING.match(word) or word.startswith("~"):
        reading.settings.append(word)
    elif not reading.jobs or _is_job(word):
        reading.jobs.append(word)
    elif colon:
        reading.said.append(f"{word} is a setting, which is written key=value")
        reading.settings.append(f"{colon[1]}={colon[2]}")
    elif reading.settings:
        reading.settings[-1] += f" {word}"
        reading.said.append("a value with blanks stands in quotes")
    else:
        reading.jobs.append(word)


def _read_flag(name: str, value: str, words: list[str], reading: CommandLine) -> None:
    """One option that the verb does not have."""
    flag = f"-{name}" if len(name) == 1 else f"--{name}"
    if name in SWEEP_FLAGS:
        reading.verb = "sweep"
        reading.said.append(f"{flag} is `ftcli sweep` here")
    elif name in CONFIG_FLAGS:
        reading.said.append(f"a job is given without {flag}")
        reading.jobs[:0] = [value] if value else words[:1]
        del words[: 0 if value else 1]
    else:
        _read_setting(name, flag, value, words, reading)


def _read_setting(name: str, flag: str, value: str, words: list[str], reading: CommandLine) -> None:
    if not value and words and SETTING.match(words[0]):  # --set lr=1e-4
        reading.said.append(f"{flag} is left out: settings are written key=value")
        return
    name = name.replace("-", "_")
    setting = find_setting(name, _compose_job([*reading.jobs, *words]))
    if setting is None:
        reading.said.append(f"No such option: {flag}, and no setting is called so")
        reading.lost.append(flag)
        return
    takes = words and not value and not words[0].startswith("-") and not _is_job(words[0])
    text = words.pop(0) if takes else value or "true"
    key = setting.key
    if setting.parameter is None and text not in paths.list_options(key):
        key = f"{key}.path"  # `--model owner/name`
    reading.said.append(f"{flag} is the setting {key}, written key=value")
    chosen, _ = setting.convert(name, overrides.parse_value(text))
    same = chosen == overrides.parse_value(text)
    reading.settings.append(f"{key}={text if same else overrides.format_value(chosen)}")


def _complete_key(word: str, reading: CommandLine) -> str:
    """A setting with its group: `lr=1e-4` is `optimizer.lr=1e-4`."""
    name, _, value = word.partition("=")
    if not re.fullmatch(r"\w+", name) or name in paths.list_groups():
        return word
    setting = find_setting(name, _compose_job(reading.jobs))
    return f"{setting.key}={value}" if setting else word


def _quote_value(word: str) -> str:
    """The setting, its value in quotes where Hydra could not read it."""
    key, _, value = word.partition("=")
    return word if overrides.is_valid_override(word) else f"{key}={overrides.format_value(value)}"


def _compose_job(words: list[str]) -> dict[str, Any]:
    """The job among the words, composed; empty where there is none."""
    job = next((word for word in words if _is_job(word)), None)
    return compose(job).config if job else {}


def _is_job(word: str) -> bool:
    try:
        paths.find_job(word)
    except UserError:
        return False
    return not SETTING.match(word)


def _check_order(words: list[str], reading: CommandLine, required: bool) -> None:
    """The job comes first."""
    first = next((word for word in words if not word.startswith("-")), "")
    if not reading.jobs and (required or reading.settings):
        reading.said.append("no job is given")
    elif not reading.said and SETTING.match(first):
        reading.said.append("the job comes first, then its settings")
    if len(reading.jobs) > 1 and all(map(_is_job, reading.jobs)):
        reading.said.append("one job at a time")
