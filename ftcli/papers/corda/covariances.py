"""Cache of covariances on disk, shared by runs with the same base and context, whatever their rank."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ftcli.core import atomic
from ftcli.data import cache

SAMPLE = 4096  # values of each weight that are hashed to tell two bases apart


def cache_file(
    cache_dir: str | None, layers: Mapping[str, nn.Module], settings: dict[str, Any]
) -> Path:
    """Return the path of the cached covariances of these layers.

    Args:
        cache_dir: the cache's folder; None: the default one.
        layers: name -> linear layer of the base; their weights are part of the key.
        settings: whatever else the covariances depend on; part of the key.
    """
    digest = hashlib.blake2b(digest_size=16)
    for layer in layers.values():
        weight: Any = layer.weight
        flat = weight.detach().flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLE)].float().cpu()
        digest.update(sample.numpy().tobytes())
    key = cache.hash_settings({"weights": digest.hexdigest(), "layers": list(layers), **settings})
    return cache.token_folder(cache_dir) / "covariances" / key / "covariances.safetensors"


def load_or_measure(file: Path, measure: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Load the covariances from the file; where there is none, measure them and write it."""
    if file.exists():
        return load_file(file)
    measured = measure()
    file.parent.parent.mkdir(parents=True, exist_ok=True)
    with atomic.write_folder(file.parent) as unfinished:
        save_file(
            {name: t.cpu().contiguous() for name, t in measured.items()}, unfinished / file.name
        )
    return measured
