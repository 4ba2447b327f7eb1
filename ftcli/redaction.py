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

_WORDS = (
    r"token|secret|password|passwd|passphrase|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|secret[_-]?key|credentials?"
)
#: Keys of tokenizers that end alike.
_HARMLESS = r"(?:pad|eos|bos|unk|sep|cls|mask|image|audio|new|next|last|first|per)[_-]"
_NAME = re.compile(rf"(?i)^(?!{_HARMLESS})(?:.*[_-])?(?:{_WORDS})$")
_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|(?:API)?KEY)$"
)
_GIVEN = re.compile(rf"(?i)((?:^|[\s.,{{'\"+])(?!{_HARMLESS})(?:[\w-]{{1,40}}[_-])??(?:{_WORDS})['\"]?\s*[=:]\s*)"
                    r"('[^']*'|\"[^\"]*\"|[^\s,'\"}\]]+)")  # fmt: skip
_SHAPE = re.compile(
    r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA|local-)[A-Za-z0-9_\-]{14,}"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)


def is_secret(name: str) -> bool:
    """Whether a key is named as secrets are."""
    return bool(_NAME.search(name.rpartition(".")[2]))


def is_secret_variable(name: str) -> bool:
    """The same for a variable of the environment, where any KEY is one."""
    return bool(_VARIABLE.search(name))


def redacted(text: str) -> str:
    """The text with each secret replaced by ***."""
    for value in _of_environment():
        text = text.replace(value, HIDDEN)
    text = _SHAPE.sub(HIDDEN, text)
    return _GIVEN.sub(lambda found: found[1] + (found[2] if _plain(found[2]) else HIDDEN), text)


def redacted_tree(value: Any, name: str = "") -> Any:
    """The same for plain nested values; what stands under a key that is named as a secret goes too."""
    if isinstance(value, dict):
        return {key: redacted_tree(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [redacted_tree(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    if is_secret(name) and not _plain(value):
        return HIDDEN
    return redacted(value)


def _plain(value: str) -> bool:
    """What stands under such a key and is none: nothing, or the name of where it is."""
    return value.strip("'\"") in ("", "null", "None", "true", "false", "???", HIDDEN)


def _of_environment() -> list[str]:
    found = [v for k, v in os.environ.items() if is_secret_variable(k) and len(v) >= SHORTEST]
    return sorted(found, key=len, reverse=True)
