"""A data set of the hub by its id; from the local cache when the hub cannot be reached."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.data.readers import list_readers, suffix_of
from ftcli.data.readers.parquet import drop_struct_nulls
from ftcli.data.rows import RawRow, RowOrError

if TYPE_CHECKING:
    from datasets import Dataset

ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
BLOCK = 1 << 20
SECONDS = 5  # timeout of the first request to the hub


def is_id(path: str) -> bool:
    """Whether a path has the shape of a hub id rather than of a file."""
    return (
        bool(ID.fullmatch(path)) and suffix_of(Path(path)) not in list_readers() and path[0] != "."
    )


class Hub:
    """One split of a hub data set. Code in data repositories is never run."""

    def __init__(
        self, path: str, split: str = "train", name: str | None = None, revision: str | None = None
    ) -> None:
        self.path, self.split, self.name, self.revision = path, split, name, revision
        self.place = f"{path}/{split}"

    @cached_property
    def commit(self) -> str | None:
        """Commit of the revision on the hub; None when the hub cannot be reached.

        Requested once and without the library's retries, so that a machine without network falls back
        on its cache at once.
        """
        from huggingface_hub import HfApi, constants, errors

        if constants.HF_HUB_OFFLINE:
            return None
        try:
            info = HfApi().dataset_info(self.path, revision=self.revision, timeout=SECONDS)
        except errors.RepositoryNotFoundError as error:
            raise UserError(
                f"{self.path} is neither a local file nor a data set of the hub (or it is private).",
                where="data.path",
                fix="check the id, or `hf auth login`; data=e2e ships with ftcli",
            ) from error
        except errors.RevisionNotFoundError as error:
            raise UserError(
                f"{self.path} has no revision {self.revision!r}.",
                where="data.revision",
                fix="data.revision=main",
            ) from error
        except Exception:  # the HTTP library's own classes: no name, no route, no answer
            return None
        return info.sha

    @cached_property
    def dataset(self) -> Dataset:
        """The split, memory-mapped by the library.

        Raises:
            UserError: it is not available, or has no such configuration or split.
        """
        from datasets import load_dataset

        revision = self.revision or self.commit
        try:
            with _without_network(self.commit is None):
                return load_dataset(
                    self.path, self.name, split=self.split, revision=revision, streaming=False
                )
        except Exception as error:  # the library lets through whatever its transport raises
            raise self._explain(error) from error

    def rows(self) -> Iterator[RowOrError]:
        types = {field.name: field.type for field in self.dataset.features.arrow_schema}
        for number, values in enumerate(self.dataset):
            row = {name: drop_struct_nulls(value, types[name]) for name, value in values.items()}
            yield RawRow(row, f"{self.place}[{number}]")

    def count_rows(self) -> int | None:
        return len(self.dataset)

    @cached_property
    def content_hash(self) -> str:
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

    def open_split(self, split: str) -> Hub:
        return Hub(self.path, split, self.name, self.revision)

    def describe(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "name": self.name,
            "split": self.split,
            "revision": self.revision,
            "commit": self.commit,
            "licence": self.dataset.info.license or None,
        }

    def _explain(self, error: Exception) -> UserError:
        text = str(error).strip().split("\n")[0]
        if "gated" in text.lower():
            return UserError(
                f"{self.path} is gated, and your token has no access to it.",
                where="data.path",
                fix="hf auth login, and accept the terms on its page; or put its files under data.path",
            )
        if self.commit is None:
            return UserError(
                f"{self.path} is neither a local file nor in the local cache, and the hub cannot be "
                "reached.",
                where="data.path",
                fix="put its files under data.path, or use data=e2e, which ships with ftcli",
            )
        key = "data.split" if "split" in text.lower() else "data.name"
        return UserError(f"{self.path}: {text}", where=key, fix=f"set {key} to one it has")


@contextmanager
def _without_network(active: bool) -> Iterator[None]:
    """Make the datasets library use its cache without trying the network first, where `active`."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or active
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
