"""Hidden states of a frozen model, kept from one epoch to the next.

A base that is never trained gives a document the same states each time. They are kept document by
document, under a hash of its tokens and their positions, whatever batch it comes in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ftcli.core.atomic import follow_umask
from ftcli.models.attention import Group, packed_inputs

#: Arguments of a trunk that say no more than tokens, positions and which of them are real.
KNOWN = {
    "input_ids", "position_ids", "attention_mask", "documents", "use_cache", "return_dict",
}  # fmt: skip
#: Rows whose missing documents are [L, B, T, d].
Compute = Callable[[dict[str, Any]], Tensor]


class Store:
    """Tensors by name, in memory or as files of a folder; what exceeds the limit is not taken.

    Nothing is dropped to make room: epochs come round in full, so what was seen first is what will
    be asked for first.

    Args:
        limit: bytes.
        folder: None keeps them in the process's memory.
    """

    def __init__(self, limit: float, folder: Path | None = None) -> None:
        self.limit, self.folder = limit, folder
        self.bytes, self.hits, self.misses = 0, 0, 0
        self._held: dict[str, Tensor] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def get(self, name: str) -> Tensor | None:
        """The tensor of that name, on the CPU; None where there is none."""
        found = self._held.get(name)
        if self.folder is not None:
            path = self.folder / f"{name}.safetensors"
            found = _read(path) if path.exists() else None
        self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
        return found

    def put(self, name: str, value: Tensor) -> None:
        """Keep a copy, as long as there is room."""
        size = value.numel() * value.element_size()
        if self.bytes + size > self.limit:
            return
        self.bytes += size
        own = value.detach().to("cpu", copy=True).contiguous()
        if self.folder is None:
            self._held[name] = own
        else:
            _write(self.folder / f"{name}.safetensors", own)


@dataclass(frozen=True)
class Document:
    """A document of a batch: the row it is in, and the places [t] of its tokens."""

    row: int
    places: Tensor
    name: str


class HiddenStates:
    """Outputs of all blocks of a trunk for a batch, from the store as far as they are there.

    Args:
        store: where they are kept.
        salt: what else decides them: the base's weights, where the store outlives the process.
    """

    def __init__(self, store: Store, salt: str = "") -> None:
        self.store, self.salt = store, salt

    def of(self, given: Mapping[str, Any], compute: Compute) -> Tensor | None:
        """States [L, B, T, d] of the documents of a batch, zeros elsewhere.

        Args:
            given: the trunk's arguments.
            compute: arguments of the trunk -> states [L, B, T, d], for documents that are missing.

        Returns:
            None where the batch is none of documents alone: generation, embeddings in place of
            tokens, a mask of more than two dimensions.
        """
        if not _plain(given):
            return None
        documents = self._documents(given)
        found = [self.store.get(document.name) for document in documents]
        missing = [d for d, states in zip(documents, found, strict=True) if states is None]
        fresh = iter(self._computed(given, missing, compute))
        device = given["input_ids"].device
        whole = [next(fresh) if states is None else states.to(device) for states in found]
        return _joined(given["input_ids"].shape, documents, whole)

    def _computed(
        self, given: Mapping[str, Any], missing: Sequence[Document], compute: Compute
    ) -> list[Tensor]:
        """States [L, t, d] of documents, by a pass over these alone."""
        if not missing:
            return []
        if given.get("documents") is not None:
            sizes = [len(document.places) for document in missing]
            states = compute(_packed(given, missing))[:, 0, : sum(sizes)]  # filled up behind these
            pieces = list(states.split(sizes, dim=1))
        else:
            rows = torch.tensor([document.row for document in missing])
            states = compute(_rows(given, rows))
            pieces = [states[:, i, d.places] for i, d in enumerate(missing)]
        for document, piece in zip(missing, pieces, strict=True):
            self.store.put(document.name, piece)
        return pieces

    def _documents(self, given: Mapping[str, Any]) -> list[Document]:
        ids, positions = given["input_ids"].cpu(), _positions(given).cpu()
        if given.get("documents") is not None:
            lengths = [n for group in given["documents"] for n in _lengths(group)]
            places = [(0, p) for p in torch.arange(ids.shape[1]).split(lengths)]
        else:
            mask = given.get("attention_mask")
            real = torch.ones_like(ids) if mask is None else mask.cpu()
            places = [(row, real[row].nonzero().squeeze(1)) for row in range(len(ids))]
        setting = f"{self.salt} {_arithmetic(given['input_ids'].device)}".encode()
        return [Document(r, p, _name(setting, ids[r, p], positions[r, p])) for r, p in places]


def fingerprint(trunk: nn.Module) -> str:
    """A hash of everything in a model that decides its hidden states: weights, packed or not, and shape."""
    config: Any = trunk.config
    found = hashlib.blake2b(config.to_json_string().encode(), digest_size=16)
    found.update(str(config._attn_implementation).encode())
    for name, value in sorted(trunk.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _plain(given: Mapping[str, Any]) -> bool:
    named = {key for key, value in given.items() if value is not None}
    mask = given.get("attention_mask")
    flat = given.get("documents") is not None or mask is None or mask.dim() == 2
    ids = given.get("input_ids")
    tokens = ids is not None and ids.device.type != "meta"
    return tokens and flat and named <= KNOWN and not given.get("use_cache")


def _positions(given: Mapping[str, Any]) -> Tensor:
    ids, positions = given["input_ids"], given.get("position_ids")
    counted = torch.arange(ids.shape[1], device=ids.device) if positions is None else positions
    return counted.expand(ids.shape)


def _lengths(group: Group) -> list[int]:
    if group.real is None:
        return [group.length] * group.documents
    return torch.bincount(group.real.cpu() // group.length).tolist()


def _arithmetic(device: torch.device) -> str:
    """The type that products are made in."""
    on = torch.is_autocast_enabled(device.type)
    return f"{device.type} {torch.get_autocast_dtype(device.type) if on else ''}"


def _name(setting: bytes, ids: Tensor, positions: Tensor) -> str:
    found = hashlib.blake2b(setting, digest_size=16)
    for part in (ids, positions):
        found.update(part.to(torch.int64).contiguous().numpy().tobytes())
    return found.hexdigest()


def _packed(given: Mapping[str, Any], documents: Sequence[Document]) -> dict[str, Any]:
    ids, positions = given["input_ids"], _positions(given)
    places = torch.cat([document.places for document in documents]).to(ids.device)
    lengths = torch.tensor([len(document.places) for document in documents])
    row = {"input_ids": ids[:, places], "position_ids": positions[:, places], "lengths": lengths}
    return packed_inputs(row, ids.device) | {"use_cache": False}


def _rows(given: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    rows = rows.to(given["input_ids"].device)
    chosen = {"input_ids": given["input_ids"][rows], "position_ids": _positions(given)[rows]}
    mask = given.get("attention_mask")
    return chosen | {"attention_mask": None if mask is None else mask[rows], "use_cache": False}


def _joined(shape: torch.Size, documents: Sequence[Document], states: Sequence[Tensor]) -> Tensor:
    depth, _, width = states[0].shape
    whole = states[0].new_zeros(depth, *shape, width)
    for document, part in zip(documents, states, strict=True):
        whole[:, document.row, document.places.to(part.device)] = part
    return whole


def _read(path: Path) -> Tensor:
    from safetensors.torch import load_file

    return load_file(path)["states"]


def _write(path: Path, value: Tensor) -> None:
    from safetensors.torch import save_file

    unfinished = path.with_suffix(f".{os.getpid()}.part")
    save_file({"states": value}, unfinished)
    follow_umask(path.parent, unfinished)
    unfinished.replace(path)
