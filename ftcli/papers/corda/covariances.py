"""Covariances on disk: runs of one base and one context share them, whatever their rank and rate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ftcli.core import atomic
from ftcli.data import cache

SAMPLE = 4096  # values of a weight that tell two bases apart


def place(cache_dir: str | None, layers: Mapping[str, nn.Module], settings: dict[str, Any]) -> Path:
    """The file of these layers, by what their weights are and how the context was measured."""
    digest = hashlib.blake2b(digest_size=16)
    for layer in layers.values():
        weight: Any = layer.weight
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // SAMPLE)].float().cpu()
        digest.update(some.numpy().tobytes())
    key = cache.hash_settings({"weights": digest.hexdigest(), "layers": list(layers), **settings})
    return cache.token_folder(cache_dir) / "covariances" / key / "covariances.safetensors"


def kept(file: Path, measure: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the file holds; measured and written where there is none."""
    if file.exists():
        return load_file(file)
    found = measure()
    file.parent.parent.mkdir(parents=True, exist_ok=True)
    with atomic.write_folder(file.parent) as unfinished:
        save_file({name: t.cpu().contiguous() for name, t in found.items()}, unfinished / file.name)
    return found
