"""A data set of the hub, by its id; taken from the local cache when the network is away."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.data.readers import readers, suffix_of
from ftcli.data.rows import Item, Row
from ftcli.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
BLOCK = 1 << 20


def is_id(path: str) -> bool:
    """Whether a path has the shape of a hub id rather than of a file."""
    return bool(ID.fullmatch(path)) and suffix_of(Path(path)) not in readers() and path[0] != "."


class Hub:
    """One split of a hub data set. Code in data repositories is never run."""

    def __init__(
        self, path: str, split: str = "train", name: str | None = None, revision: str | None = None
    ) -> None:
        self.path, self.split, self.name, self.revision = path, split, name, revision

    @cached_property
    def dataset(self) -> Dataset:
        """The split, memory-mapped by the library."""
        from datasets import load_dataset

        try:
            return load_dataset(
                self.path, self.name, split=self.split, revision=self.revision, streaming=False
            )
        except Exception as error:  # the library lets through whatever its transport raises
            raise self._explain(error) from error

    def rows(self) -> Iterator[Item]:
        for number, values in enumerate(self.dataset):
            yield Row(dict(values), f"{self.path}/{self.split}[{number}]")

    @cached_property
    def content(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        files = [file["filename"] for file in self.dataset.cache_files]
        for name in files:
            with open(name, "rb") as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
        if not files:
            for values in self.dataset:
                digest.update(json.dumps(values, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def other(self, split: str) -> Hub:
        return Hub(self.path, split, self.name, self.revision)

    def describe(self) -> dict[str, Any]:
        info = self.dataset.info
        return {
            "path": self.path,
            "name": self.name,
            "split": self.split,
            "revision": self.revision,
            "version": str(info.version) if info.version else None,
            "licence": info.license or None,
        }

    def _explain(self, error: Exception) -> UserError:
        text = str(error).strip().split("\n")[0]
        kind = type(error).__name__
        if "gated" in text.lower() or "401" in text or "403" in text:
            return UserError(
                f"{self.path} is gated and no token of yours opens it: {text}",
                where="data.path",
                fix="run `hf auth login`, accept the terms on its page, or put the files under data.path",
            )
        if "config" in text.lower() and "name" in text.lower() or "split" in text.lower():
            return UserError(
                f"{self.path}: {text}",
                where="data",
                fix="set data.name or data.split to one it has",
            )
        return UserError(
            f"{self.path} is neither a local file nor can it be had from the hub "
            f"(offline, or no such id): {kind}: {text}",
            where="data.path",
            fix="check the id and the network, or put the files under data.path; "
            "shipped and always there: data=e2e",
        )
