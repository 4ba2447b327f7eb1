"""Suggest the command of ftcli for a command line written in the style of other programs.

Used only after an error: flags instead of `key=value`, the job after its settings or after `--config`,
blanks around `=`, `-m` for a sweep.
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
    """A command line, split into its parts.

    Attributes:
        notes: differences from the syntax of ftcli.
        options: options of the verb.
        unknown_flags: flags without a counterpart.
    """

    verb: str
    notes: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    unknown_flags: list[str] = field(default_factory=list)

    def command(self) -> str:
        """Return the command in the syntax of ftcli; one command per job."""
        more = [*map(_quote_value, self.settings), *self.options]
        lines = [["ftcli", self.verb, job, *more] for job in self.jobs or [DEFAULT_JOB]]
        return " && ".join(" ".join(map(overrides.quote_for_shell, words)) for words in lines)


def explain_command_line(words: Sequence[str], error: UserError) -> UserError:
    """Return an error with the corrected command where the syntax is another program's, else the error."""
    try:
        command_line = read_command_line(list(words))
    except Exception:  # the original error is shown then
        return error
    if command_line is None or not command_line.notes:
        return error
    what = "; ".join(dict.fromkeys(command_line.notes)) + "."
    fix = "see: ftcli schema" if command_line.unknown_flags else command_line.command()
    return UserError(what, "command line", fix, error.code)


def read_command_line(words: list[str]) -> CommandLine | None:
    """Return the parts of a command line; None where its verb takes no job and settings."""
    words = [word for word in words if word not in ("--debug", "-q", "--quiet", "--")]
    verb = next((word for word in words if word in find_verbs()), None)
    if verb is not None:
        words.remove(verb)
    elif not words or not (words[0].startswith("-") or _is_job(words[0])):
        return None
    command_line = CommandLine(verb or "train", [] if verb else ["a verb comes first"])
    params = {param.name: param for param in load_verb(command_line.verb).params}
    if not {"job", "overrides"} <= params.keys():
        return None
    known = {opt: param for param in params.values() for opt in getattr(param, "opts", ())}
    _read_words(_join_settings(words, command_line), known, command_line)
    _check_order(words, command_line, bool(getattr(params["job"], "required", True)))
    if command_line.notes:
        command_line.settings = [
            _complete_key(word, command_line) for word in command_line.settings
        ]
    return command_line


def _join_settings(words: list[str], command_line: CommandLine) -> list[str]:
    """Return the words with `key = value`, `key= value` and `key =value` joined."""
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        opens = before.endswith("=") and SETTING.fullmatch(before) and not SETTING.match(word)
        closes = word.startswith("=") and re.fullmatch(r"[\w.]+", before)
        if opens or closes:
            joined[-1] += word
            command_line.notes.append("a setting has no blanks around its =")
        else:
            joined.append(word)
    return joined


def _read_words(words: list[str], known: dict[str, Any], command_line: CommandLine) -> None:
    while words:
        word = words.pop(0)
        flag, _, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            _read_positional(word, command_line)
        elif flag in known:
            command_line.options.append(word)
            if not value and not getattr(known[flag], "is_flag", False) and words:
                command_line.options.append(words.pop(0))
        else:
            near = difflib.get_close_matches(flag, known, 1, 0.8)
            if near:
                command_line.notes.append(f"{flag} is written {near[0]}")
                words.insert(0, near[0] + (f"={value}" if value else ""))
            else:
                _read_flag(flag.lstrip("-"), value, words, command_line)


def _read_positional(word: str, command_line: CommandLine) -> None:
    colon = COLON.fullmatch(word)
    if SETTING.match(word) or word.startswith("~"):
        command_line.settings.append(word)
    elif not command_line.jobs or _is_job(word):
        command_line.jobs.append(word)
    elif colon:
        command_line.notes.append(f"{word} is a setting, which is written key=value")
        command_line.settings.append(f"{colon[1]}={colon[2]}")
    elif command_line.settings:
        command_line.settings[-1] += f" {word}"
        command_line.notes.append("a value with blanks stands in quotes")
    else:
        command_line.jobs.append(word)


def _read_flag(name: str, value: str, words: list[str], command_line: CommandLine) -> None:
    """Interpret an option that the verb does not have."""
    flag = f"-{name}" if len(name) == 1 else f"--{name}"
    if name in SWEEP_FLAGS:
        command_line.verb = "sweep"
        command_line.notes.append(f"{flag} is `ftcli sweep` here")
    elif name in CONFIG_FLAGS:
        command_line.notes.append(f"a job is given without {flag}")
        command_line.jobs[:0] = [value] if value else words[:1]
        del words[: 0 if value else 1]
    else:
        _read_setting(name, flag, value, words, command_line)


def _read_setting(
    name: str, flag: str, value: str, words: list[str], command_line: CommandLine
) -> None:
    if not value and words and SETTING.match(words[0]):  # --set lr=1e-4
        command_line.notes.append(f"{flag} is left out: settings are written key=value")
        return
    name = name.replace("-", "_")
    setting = find_setting(name, _compose_job([*command_line.jobs, *words]))
    if setting is None:
        command_line.notes.append(f"No such option: {flag}, and no setting is called so")
        command_line.unknown_flags.append(flag)
        return
    takes = words and not value and not words[0].startswith("-") and not _is_job(words[0])
    text = words.pop(0) if takes else value or "true"
    key = setting.key
    if setting.parameter is None and text not in paths.list_options(key):
        key = f"{key}.path"  # `--model owner/name`
    command_line.notes.append(f"{flag} is the setting {key}, written key=value")
    chosen, _ = setting.convert(name, overrides.parse_value(text))
    same = chosen == overrides.parse_value(text)
    command_line.settings.append(f"{key}={text if same else overrides.format_value(chosen)}")


def _complete_key(word: str, command_line: CommandLine) -> str:
    """Return a setting with its group: `optimizer.lr=1e-4` for `lr=1e-4`."""
    name, _, value = word.partition("=")
    if not re.fullmatch(r"\w+", name) or name in paths.list_groups():
        return word
    setting = find_setting(name, _compose_job(command_line.jobs))
    return f"{setting.key}={value}" if setting else word


def _quote_value(word: str) -> str:
    """Return the setting, with its value quoted where Hydra could not parse it."""
    key, _, value = word.partition("=")
    return word if overrides.is_valid_override(word) else f"{key}={overrides.format_value(value)}"


def _compose_job(words: list[str]) -> dict[str, Any]:
    """Return the configuration of the job among the words; empty where there is none."""
    job = next((word for word in words if _is_job(word)), None)
    return compose(job).config if job else {}


def _is_job(word: str) -> bool:
    try:
        paths.find_job(word)
    except UserError:
        return False
    return not SETTING.match(word)


def _check_order(words: list[str], command_line: CommandLine, required: bool) -> None:
    """Note a missing job, a job after its settings, and several jobs."""
    first = next((word for word in words if not word.startswith("-")), "")
    if not command_line.jobs and (required or command_line.settings):
        command_line.notes.append("no job is given")
    elif not command_line.notes and SETTING.match(first):
        command_line.notes.append("the job comes first, then its settings")
    if len(command_line.jobs) > 1 and all(map(_is_job, command_line.jobs)):
        command_line.notes.append("one job at a time")
