"""Redaction of secrets in whatever is kept or shown: records, logs, messages.

A secret is recognised by the variable of the environment that holds it (HF_TOKEN), by the name of its key
(`api_key=...`), or by its own form (a hub token, `user:password@` in an address).
"""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "***"
SHORTEST = 8  # characters; shorter values of the environment are parts of too many other words

_OTHERS = (
    r"secret|password|passwd|passphrase|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|secret[_-]?key|credentials?"
)
#: `token` names a secret alone or behind one of these words; stop_token and pad_token do not.
_ISSUERS = (
    r"api|auth|access|bearer|refresh|session|secret|hub|hf|huggingface|github|gitlab"
    r"|slack|wandb|comet|neptune|clearml|mlflow|trackio|tracking"
)
_TOKEN = rf"(?:(?:[\w-]{{0,40}}[_-])?(?:{_ISSUERS})[_-])?token"
_NAME = re.compile(rf"(?i)^(?:{_TOKEN}|(?:.*[_-])?(?:{_OTHERS}))$")
_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|(?:API)?KEY)$"
)
_ASSIGNMENT = re.compile(rf"(?i)((?:^|[\s.,{{'\"+?&])(?:{_TOKEN}|(?:[\w-]{{1,40}}[_-])??(?:{_OTHERS}))['\"]?\s*[=:]\s*)"
                    r"('[^']*'|\"[^\"]*\"|[^\s,'\"}\]]+)")  # fmt: skip
_SHAPE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}"
    r"|sk-(?:proj|ant|or)-[\w-]{20,}|sk-[A-Za-z0-9]{32,}|xox[abp]-[\w-]{14,}|AKIA[A-Z0-9]{12,}"
    r"|local-[0-9a-f]{40})\b"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)


def is_secret(name: str) -> bool:
    """Whether a key has the name of a secret."""
    return bool(_NAME.search(name.rpartition(".")[2]))


def is_secret_variable(name: str) -> bool:
    """Whether a variable of the environment has the name of a secret; there any KEY is one."""
    return bool(_VARIABLE.search(name))


def redact(text: str) -> str:
    """Return the text with each secret replaced by ***, values behind a secret's name included."""
    text = _redact_known(text)
    return _ASSIGNMENT.sub(lambda m: m[1] + (m[2] if _is_plain(m[2]) else HIDDEN), text)


def redact_word(word: str) -> str:
    """Return a word of a command line (`key=value`) redacted; its value ends where the word ends."""
    key, equals, value = word.partition("=")
    secret = equals and is_secret(key.lstrip("+~-")) and not _is_plain(value)
    return f"{key}={HIDDEN}" if secret else redact(word)


def _redact_known(text: str) -> str:
    """The text without secret values of the environment and without what has the form of a secret."""
    for value in _find_environment_secrets():
        text = text.replace(value, HIDDEN)
    return _SHAPE.sub(HIDDEN, text)


def redact_tree(value: Any, name: str = "") -> Any:
    """Return nested settings without values under a secret's name and without known secrets.

    Other values stay as they are: a run is repeated from its settings, and a prompt may say "Token: {x}".
    """
    if isinstance(value, dict):
        return {key: redact_tree(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_tree(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    if is_secret(name) and not _is_plain(value):
        return HIDDEN
    return _redact_known(value)


def _is_plain(value: str) -> bool:
    """Whether a value under a secret's name is none: empty, null, a switch, missing or redacted."""
    return value.strip("'\"") in ("", "null", "None", "true", "false", "???", HIDDEN)


def _find_environment_secrets() -> list[str]:
    """Values of secret variables, the longest first."""
    values = [v for k, v in os.environ.items() if is_secret_variable(k) and len(v) >= SHORTEST]
    return sorted(values, key=len, reverse=True)
