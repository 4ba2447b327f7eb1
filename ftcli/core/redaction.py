"""Secrets out of whatever is kept or shown: records, logs, messages.

Three things tell a secret: that the environment holds it under a name like HF_TOKEN, that its key is
called so (`api_key=...`), or its own shape (a hub token, `user:password@` in an address).
"""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "***"
SHORTEST = 8  # characters: shorter values of the environment stand in too many other words

_OTHERS = (
    r"secret|password|passwd|passphrase|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|secret[_-]?key|credentials?"
)
#: A token is a secret where nothing or one of these stands before it: there are stop_token and pad_token too.
_GIVERS = (
    r"api|auth|access|bearer|refresh|session|secret|hub|hf|huggingface|github|gitlab"
    r"|slack|wandb|comet|neptune|clearml|mlflow|trackio|tracking"
)
_TOKEN = rf"(?:(?:[\w-]{{0,40}}[_-])?(?:{_GIVERS})[_-])?token"
_NAME = re.compile(rf"(?i)^(?:{_TOKEN}|(?:.*[_-])?(?:{_OTHERS}))$")
_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|(?:API)?KEY)$"
)
_GIVEN = re.compile(rf"(?i)((?:^|[\s.,{{'\"+?&])(?:{_TOKEN}|(?:[\w-]{{1,40}}[_-])??(?:{_OTHERS}))['\"]?\s*[=:]\s*)"
                    r"('[^']*'|\"[^\"]*\"|[^\s,'\"}\]]+)")  # fmt: skip
_SHAPE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}"
    r"|sk-(?:proj|ant|or)-[\w-]{20,}|sk-[A-Za-z0-9]{32,}|xox[abp]-[\w-]{14,}|AKIA[A-Z0-9]{12,}"
    r"|local-[0-9a-f]{40})\b"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)


def is_secret(name: str) -> bool:
    """Whether a key is named as secrets are."""
    return bool(_NAME.search(name.rpartition(".")[2]))


def is_secret_variable(name: str) -> bool:
    """The same for a variable of the environment, where any KEY is one."""
    return bool(_VARIABLE.search(name))


def redact(text: str) -> str:
    """A text with each secret replaced by ***, those that stand behind their name too."""
    found = _known(text)
    return _GIVEN.sub(lambda at: at[1] + (at[2] if _plain(at[2]) else HIDDEN), found)


def redact_word(word: str) -> str:
    """A word of a command line (`key=value`), whose value ends where the word does."""
    key, given, value = word.partition("=")
    secret = given and is_secret(key.lstrip("+~-")) and not _plain(value)
    return f"{key}={HIDDEN}" if secret else redact(word)


def _known(text: str) -> str:
    """The text without values of the environment and what has the shape of a secret."""
    for value in _of_environment():
        text = text.replace(value, HIDDEN)
    return _SHAPE.sub(HIDDEN, text)


def redact_tree(value: Any, name: str = "") -> Any:
    """Nested settings without what stands under a key that is named as a secret, or is known to be one.

    Other values stay as they are: a run is repeated from its settings, and a prompt may say "Token: {x}".
    """
    if isinstance(value, dict):
        return {key: redact_tree(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_tree(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    if is_secret(name) and not _plain(value):
        return HIDDEN
    return _known(value)


def _plain(value: str) -> bool:
    """What stands under such a key and is none: nothing, or the name of where it is."""
    return value.strip("'\"") in ("", "null", "None", "true", "false", "???", HIDDEN)


def _of_environment() -> list[str]:
    found = [v for k, v in os.environ.items() if is_secret_variable(k) and len(v) >= SHORTEST]
    return sorted(found, key=len, reverse=True)
