"""Labelled images or sounds of a source, whose content is read on demand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

SPLITS = {"valid": "validation", "val": "validation", "dev": "validation"}
NAMED = ("train", "validation", "test", *SPLITS)


class Item(NamedTuple):
    """One example.

    Attributes:
        read: returns its encoded file, or its array.
        label: name of its class.
        origin: file and row, as messages name it.
        digest: hash of its content.
        group: value whose items stay in one split, such as a speaker; "" for none.
        split: train, validation or test, where the source names it.
        rate: sampling rate in Hz of a sound that is an array.
    """

    read: Callable[[], bytes | np.ndarray[Any, Any]]
    label: str
    origin: str
    digest: str
    group: str = ""
    split: str | None = None
    rate: int | None = None


class FileLabels(NamedTuple):
    """Class, group and split that a file's path names."""

    label: str
    group: str
    split: str | None


def normalize_split(text: str) -> str:
    """Return a split's canonical name: `val`, `valid` and `dev` are validation."""
    return SPLITS.get(text, text)


def parse_name(path: str, pattern: str | None) -> FileLabels | None:
    """Parse class, group and split of a file from its path inside the source.

    Args:
        pattern: regular expression with a group `label` and perhaps `group` and `split`; without one
            the folder of a file is its class, and train/, validation/ and test/ above it its split.

    Returns:
        None where the pattern does not match, or the file lies in no folder.
    """
    if pattern is not None:
        match = re.search(pattern, path)
        if match is None:
            return None
        parts = {k: v for k, v in match.groupdict().items() if v is not None}
        split = parts.get("split")
        return FileLabels(
            parts["label"], parts.get("group", ""), normalize_split(split) if split else None
        )
    folders = path.split("/")[:-1]
    split = next((f for f in folders[:-1] if f in NAMED), None)
    return (
        FileLabels(folders[-1], "", normalize_split(split) if split else None) if folders else None
    )
