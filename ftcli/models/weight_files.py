"""The safetensors files of a model: shapes from their headers, hashes of their content."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftcli.config.paths import cache_folder
from ftcli.core.atomic import write_text
from ftcli.core.errors import UserError
from ftcli.models import hub

MODEL, DIFFUSION = "model.safetensors", "diffusion_pytorch_model.safetensors"
SMALL, BLOCK = 16 << 20, 8 << 20  # bytes: below which no hash is cached; that are read at once
FETCH_AGAIN = "fetch the model again: a file is missing or was cut off"


@dataclass(frozen=True)
class WeightFiles:
    """The files that a library loads, in one folder.

    Attributes:
        root: the folder of the whole model.
        paths: the safetensors files; one, or the shards of an index.
        config: the model's config.json, where there is one.
    """

    root: Path
    paths: tuple[Path, ...]
    config: Path | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor, from the headers.

        Raises:
            UserError: a file is cut off or is no safetensors file.
        """
        from safetensors import safe_open

        shapes: dict[str, tuple[int, ...]] = {}
        for path in self.paths:
            try:
                with safe_open(path, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118  (the handle is no dict)
                        shapes[name] = tuple(tensors.get_slice(name).get_shape())
            except Exception as error:  # the library's own class, or the system's
                raise UserError(
                    f"{path.name} cannot be read ({error}).", where=str(path), fix=FETCH_AGAIN
                ) from error
        return shapes

    @property
    def commit(self) -> str | None:
        """The hub's commit, for files in its local cache."""
        return self.root.name if self.root.parent.name == "snapshots" else None

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each file's content, and of the configuration's values, by file name."""
        with ThreadPoolExecutor(
            max_workers=len(self.paths)
        ) as pool:  # hashing frees the interpreter
            digests = list(pool.map(hash_file, self.paths))
        named = zip((str(path.relative_to(self.root)) for path in self.paths), digests, strict=True)
        config = (
            {str(self.config.relative_to(self.root)): _hash_values(self.config)}
            if self.config
            else {}
        )
        return dict(named) | config


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, cached until the file is written to.

    The cache key is path, inode, size and the times of the last write and change; the last cannot be
    set by a program.
    """
    stat = path.stat()
    if stat.st_size < SMALL:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    identity = (str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    entry = cache_folder("hashes") / hashlib.sha256(repr(identity).encode()).hexdigest()
    if entry.is_file():
        return entry.read_text(encoding="ascii")
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    with suppress(OSError):  # without a cache it only takes longer
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_text(entry, digest.hexdigest())
    return digest.hexdigest()


def _hash_values(config: Path) -> str:
    """Hash a configuration's values, without its layout and the version that wrote it."""
    values = json.loads(config.read_text(encoding="utf-8"))
    kept = {k: v for k, v in values.items() if k not in ("transformers_version", "_name_or_path")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def find_weight_files(
    path: str, revision: str | None, name: str = MODEL, inside: str = ""
) -> WeightFiles | None:
    """Find the files of a folder, or of a hub id in the local cache; None where they are absent.

    Args:
        path: what `hub.resolve` returned.
        name: the file's name when it is not split into shards.
        inside: the folder of a part of the model.

    Raises:
        UserError: an index names a shard that is absent.
    """

    def find(file: str) -> Path | None:
        return hub.find_file(path, f"{inside}/{file}" if inside else file, revision)

    def gather(paths: list[Path]) -> WeightFiles:
        root = paths[0].parent
        return WeightFiles(root.parent if inside else root, tuple(paths), find("config.json"))

    whole = find(name)
    if whole is not None:
        return gather([whole])
    index = find(f"{name}.index.json")
    if index is None:
        return None
    shards = {shard: find(shard) for shard in _read_shards(index)}
    absent = [shard for shard, file in shards.items() if file is None]
    if absent and hub.is_local(path):
        raise UserError(
            f"{index.name} names {len(shards)} files, and {len(absent)} of them are not there: "
            f"{_list_few(absent)}.",
            where=str(index),
            fix=FETCH_AGAIN,
        )
    if absent:
        return None  # in the hub's cache: absent shards are downloaded
    return gather([file for file in shards.values() if file])


def _read_shards(index: Path) -> list[str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(content["weight_map"].values()))
        content["metadata"]  # transformers requires it
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{index.name} is no index of weights: it holds 'metadata' and 'weight_map'.",
            where=str(index),
            fix=FETCH_AGAIN,
        ) from error
    if not names:
        raise UserError(f"{index.name} names no file.", where=str(index), fix=FETCH_AGAIN)
    return names


def _list_few(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
