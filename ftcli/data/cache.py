"""Token arrays on disk: content-addressed, written in chunks, resumed after a kill, memory-mapped.

A folder of the cache is named by the hash of everything that decides its content. While it is being
written it is called `<key>.partial`; its manifest holds the valid size of each file, so that a
preparation that was killed continues at its last chunk. One process writes, others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np

from ftcli.config.paths import cache_folder
from ftcli.core.atomic import write_text
from ftcli.data.tokens import ARRAYS, Document

MANIFEST, META, DONE = "manifest.json", "meta.json", "DONE"


def token_folder(cache_dir: str | None = None) -> Path:
    """Return the folder of the token arrays: `cache_dir`, $FTCLI_CACHE/tokens or ~/.cache/ftcli/tokens."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    return cache_folder("tokens")


def hash_settings(settings: dict[str, Any]) -> str:
    """Return the name of the cache folder for these settings: the BLAKE2b hash of their JSON."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def find_or_write(root: Path, key: str, fill: Callable[[Writer], dict[str, Any]]) -> Path:
    """Return the folder with the tokens of a key; write it first where the cache does not have it.

    Args:
        root: the cache folder.
        key: see `hash_settings`.
        fill: appends the remaining documents to the writer and returns the content of `meta.json`.
    """
    done = root / key
    if not is_complete(done):
        root.mkdir(parents=True, exist_ok=True)
        with _lock_file(root / f"{key}.lock"):
            if not is_complete(done):
                shutil.rmtree(done, ignore_errors=True)
                writer = Writer(root / f"{key}.partial")
                writer.finish(fill(writer), done)
            # A process that still waits for the lock, or opens it again, finds the folder finished.
            (root / f"{key}.lock").unlink(missing_ok=True)
    return done


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of `meta.json` of a finished folder."""
    return dict(json.loads((folder / META).read_text(encoding="utf-8")))


def is_complete(done: Path) -> bool:
    """Whether a folder was finished and its files still have the sizes that they were given."""
    try:
        meta = json.loads((done / META).read_text(encoding="utf-8"))
        items = {"ids": meta["tokens"], "loss_mask": meta["tokens"]}
        items |= dict.fromkeys(("offsets", "origin_offsets"), meta["documents"] + 1)
        sizes = {name: (done / f"{name}.bin").stat().st_size for name in ARRAYS}
        with open(done / "origin_offsets.bin", "rb") as file:
            file.seek(-8, os.SEEK_END)
            items["origins"] = int.from_bytes(file.read(), sys.byteorder)
        wanted = {name: n * np.dtype(ARRAYS[name]).itemsize for name, n in items.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return (done / DONE).exists() and sizes == wanted


class Writer:
    """Appends documents; everything up to the last `commit` survives a kill.

    Attributes:
        state: the state that the caller passed to the last `commit`, for resuming.
        committed: tokens at the last `commit`.
    """

    def __init__(self, partial: Path) -> None:
        partial.mkdir(parents=True, exist_ok=True)
        self.partial = partial
        manifest = self._read_manifest()
        self.state: dict[str, Any] = manifest["state"]
        self.chain = bytes.fromhex(manifest["chain"])
        self.tokens, self.documents = manifest["tokens"], manifest["documents"]
        self.committed = self.tokens
        self.origin_bytes = manifest["origin_bytes"]
        self._files = {name: self._open(name, manifest["sizes"].get(name, 0)) for name in ARRAYS}
        if not self.documents:
            self._start_offsets()

    def append(self, document: Document, origin: str) -> None:
        """Append a document and its origin."""
        ids = np.ascontiguousarray(document.ids, dtype=np.int32).tobytes()
        loss_mask = np.ascontiguousarray(document.loss_mask, dtype=np.uint8).tobytes()
        place = origin.encode("utf-8", "surrogateescape")
        self.tokens += len(document.ids)
        self.origin_bytes += len(place)
        self.documents += 1
        self._files["ids"].write(ids)
        self._files["loss_mask"].write(loss_mask)
        self._files["origins"].write(place)
        self._files["offsets"].write(self.tokens.to_bytes(8, sys.byteorder))
        self._files["origin_offsets"].write(self.origin_bytes.to_bytes(8, sys.byteorder))
        digest = hashlib.blake2b(self.chain, digest_size=16)
        digest.update(ids)
        digest.update(loss_mask)
        self.chain = digest.digest()

    def commit(self, state: dict[str, Any]) -> None:
        """Flush everything appended so far to disk, together with the caller's state."""
        self.state, self.committed = state, self.tokens
        sizes = {}
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            sizes[name] = file.tell()
        manifest = {
            "state": state,
            "sizes": sizes,
            "chain": self.chain.hex(),
            "tokens": self.tokens,
            "documents": self.documents,
            "origin_bytes": self.origin_bytes,
        }
        write_text(self.partial / MANIFEST, json.dumps(manifest))

    def finish(self, meta: dict[str, Any], target: Path) -> None:
        """Write `meta.json`, rename the folder to its final name and mark it done."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        whole = {
            **meta,
            "documents": self.documents,
            "tokens": self.tokens,
            "fingerprint": self.chain.hex(),
        }
        write_text(self.partial / META, json.dumps(whole, indent=2, ensure_ascii=False))
        (self.partial / MANIFEST).unlink(missing_ok=True)
        write_text(self.partial / DONE, "")
        os.rename(self.partial, target)

    def _read_manifest(self) -> dict[str, Any]:
        """Read the manifest of a killed preparation; an empty one where there is none or it is damaged."""
        try:
            manifest = dict(json.loads((self.partial / MANIFEST).read_text()))
            if all(_size(self.partial, name) >= size for name, size in manifest["sizes"].items()):
                return manifest
        except (OSError, ValueError, KeyError, TypeError):
            pass  # damaged: begin again
        return {
            "state": {}, "sizes": {}, "chain": "", "tokens": 0, "documents": 0, "origin_bytes": 0,
        }  # fmt: skip

    def _open(self, name: str, size: int) -> BufferedWriter:
        """Open a file of the folder, truncated to its valid size."""
        path = self.partial / f"{name}.bin"
        path.touch()
        os.truncate(path, size)
        return open(path, "ab")

    def _start_offsets(self) -> None:
        for name in ("offsets", "origin_offsets"):
            os.truncate(self.partial / f"{name}.bin", 0)
            self._files[name].write(bytes(8))


def _size(folder: Path, name: str) -> int:
    return (folder / f"{name}.bin").stat().st_size


@contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel releases it when the process dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
