"""Cache of the hidden states of a frozen model.

A base that is never trained computes the same states for a document each time. They are stored document
by document, under a hash of tokens and positions, so that they do not depend on the batch.
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
from ftcli.models.attention_layout import Group, pack_inputs

#: Arguments of a backbone that only give tokens, positions and the mask of padding.
KNOWN = {
    "input_ids", "position_ids", "attention_mask", "documents", "use_cache", "return_dict",
}  # fmt: skip
#: Arguments of the backbone -> outputs of all its blocks [L, B, T, d].
Compute = Callable[[dict[str, Any]], Tensor]


class Store:
    """Tensors by name, in memory or as files of a folder; a tensor beyond the limit is not stored.

    No tensor is evicted: every epoch reads all documents, so that those stored first are read in the
    next epoch like any others.

    Args:
        limit: bytes.
        folder: folder of the files; None stores tensors in the process's memory.
    """

    def __init__(self, limit: float, folder: Path | None = None) -> None:
        self.limit, self.folder = limit, folder
        self.bytes, self.hits, self.misses = 0, 0, 0
        self._tensors: dict[str, Tensor] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def get(self, name: str) -> Tensor | None:
        """Return the tensor of that name, on the CPU; None if it is not stored."""
        value = self._tensors.get(name)
        if self.folder is not None:
            path = self.folder / f"{name}.safetensors"
            value = _read_states(path) if path.exists() else None
        self.hits, self.misses = self.hits + (value is not None), self.misses + (value is None)
        return value

    def put(self, name: str, value: Tensor) -> None:
        """Store a copy on the CPU, unless it would exceed the limit."""
        size = value.numel() * value.element_size()
        if self.bytes + size > self.limit:
            return
        self.bytes += size
        copy = value.detach().to("cpu", copy=True).contiguous()
        if self.folder is None:
            self._tensors[name] = copy
        else:
            _write_states(self.folder / f"{name}.safetensors", copy)


@dataclass(frozen=True)
class Document:
    """A document of a batch: its row, the places [t] of its tokens, and its name in the store."""

    row: int
    places: Tensor
    name: str


class HiddenStates:
    """Outputs of all blocks of a backbone for a batch, read from a store or computed.

    Args:
        store: store of the documents' states.
        salt: part of every name; the hash of the base, where the store outlives the process.
    """

    def __init__(self, store: Store, salt: str = "") -> None:
        self.store, self.salt = store, salt

    def get_states(self, arguments: Mapping[str, Any], compute: Compute) -> Tensor | None:
        """Return the states [L, B, T, d] of the documents of a batch, zeros elsewhere.

        Args:
            arguments: arguments of the backbone.
            compute: arguments of the backbone -> states [L, B, T, d], for documents that are missing.

        Returns:
            None where states depend on more than the documents: generation, embeddings in place of
            tokens, a mask of more than two dimensions.
        """
        if not _is_cacheable(arguments):
            return None
        documents = self._split_documents(arguments)
        stored = [self.store.get(document.name) for document in documents]
        missing = [d for d, states in zip(documents, stored, strict=True) if states is None]
        computed = iter(self._compute_missing(arguments, missing, compute))
        device = arguments["input_ids"].device
        pieces = [next(computed) if states is None else states.to(device) for states in stored]
        return _join_states(arguments["input_ids"].shape, documents, pieces)

    def _compute_missing(
        self, arguments: Mapping[str, Any], missing: Sequence[Document], compute: Compute
    ) -> list[Tensor]:
        """Compute and store the states [L, t, d] of documents, by a pass over these alone."""
        if not missing:
            return []
        if arguments.get("documents") is not None:
            sizes = [len(document.places) for document in missing]
            states = compute(_pack_documents(arguments, missing))[
                :, 0, : sum(sizes)
            ]  # padded behind
            pieces = list(states.split(sizes, dim=1))
        else:
            rows = torch.tensor([document.row for document in missing])
            states = compute(_select_rows(arguments, rows))
            pieces = [states[:, i, d.places] for i, d in enumerate(missing)]
        for document, piece in zip(missing, pieces, strict=True):
            self.store.put(document.name, piece)
        return pieces

    def _split_documents(self, arguments: Mapping[str, Any]) -> list[Document]:
        ids, positions = arguments["input_ids"].cpu(), _get_positions(arguments).cpu()
        if arguments.get("documents") is not None:
            lengths = [n for group in arguments["documents"] for n in _read_lengths(group)]
            places = [(0, p) for p in torch.arange(ids.shape[1]).split(lengths)]
        else:
            mask = arguments.get("attention_mask")
            real = torch.ones_like(ids) if mask is None else mask.cpu()
            places = [(row, real[row].nonzero().squeeze(1)) for row in range(len(ids))]
        setting = f"{self.salt} {_describe_precision(arguments['input_ids'].device)}".encode()
        return [
            Document(r, p, _hash_document(setting, ids[r, p], positions[r, p])) for r, p in places
        ]


def hash_backbone(backbone: nn.Module) -> str:
    """Return a hash of all that determines a model's hidden states: configuration and stored weights."""
    config: Any = backbone.config
    digest = hashlib.blake2b(config.to_json_string().encode(), digest_size=16)
    digest.update(str(config._attn_implementation).encode())
    for name, value in sorted(backbone.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _is_cacheable(arguments: Mapping[str, Any]) -> bool:
    names = {key for key, value in arguments.items() if value is not None}
    mask = arguments.get("attention_mask")
    flat = arguments.get("documents") is not None or mask is None or mask.dim() == 2
    ids = arguments.get("input_ids")
    tokens = ids is not None and ids.device.type != "meta"
    return tokens and flat and names <= KNOWN and not arguments.get("use_cache")


def _get_positions(arguments: Mapping[str, Any]) -> Tensor:
    ids, positions = arguments["input_ids"], arguments.get("position_ids")
    counted = torch.arange(ids.shape[1], device=ids.device) if positions is None else positions
    return counted.expand(ids.shape)


def _read_lengths(group: Group) -> list[int]:
    if group.real is None:
        return [group.length] * group.documents
    return torch.bincount(group.real.cpu() // group.length).tolist()


def _describe_precision(device: torch.device) -> str:
    """Return the device type and the dtype of autocast, if enabled."""
    enabled = torch.is_autocast_enabled(device.type)
    return f"{device.type} {torch.get_autocast_dtype(device.type) if enabled else ''}"


def _hash_document(setting: bytes, ids: Tensor, positions: Tensor) -> str:
    digest = hashlib.blake2b(setting, digest_size=16)
    for part in (ids, positions):
        digest.update(part.to(torch.int64).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _pack_documents(arguments: Mapping[str, Any], documents: Sequence[Document]) -> dict[str, Any]:
    ids, positions = arguments["input_ids"], _get_positions(arguments)
    places = torch.cat([document.places for document in documents]).to(ids.device)
    lengths = torch.tensor([len(document.places) for document in documents])
    row = {"input_ids": ids[:, places], "position_ids": positions[:, places], "lengths": lengths}
    return pack_inputs(row, ids.device) | {"use_cache": False}


def _select_rows(arguments: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    ids, positions = arguments["input_ids"], _get_positions(arguments)
    rows = rows.to(ids.device)
    mask = arguments.get("attention_mask")
    return {
        "input_ids": ids[rows],
        "position_ids": positions[rows],
        "attention_mask": None if mask is None else mask[rows],
        "use_cache": False,
    }


def _join_states(
    shape: torch.Size, documents: Sequence[Document], states: Sequence[Tensor]
) -> Tensor:
    depth, _, width = states[0].shape
    whole = states[0].new_zeros(depth, *shape, width)
    for document, part in zip(documents, states, strict=True):
        whole[:, document.row, document.places.to(part.device)] = part
    return whole


def _read_states(path: Path) -> Tensor:
    from safetensors.torch import load_file

    return load_file(path)["states"]


def _write_states(path: Path, value: Tensor) -> None:
    from safetensors.torch import save_file

    unfinished = path.with_suffix(f".{os.getpid()}.part")
    save_file({"states": value}, unfinished)
    follow_umask(path.parent, unfinished)
    unfinished.replace(path)
