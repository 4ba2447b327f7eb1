"""The safetensors files of a model and what their headers say, without reading a tensor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ftcli.errors import UserError
from ftcli.models import hub

MODEL, DIFFUSION = "model.safetensors", "diffusion_pytorch_model.safetensors"
AGAIN = "fetch the model again: a file is missing or was cut off"


@dataclass(frozen=True)
class WeightFiles:
    """The files that a library loads, in one folder.

    Attributes:
        paths: the safetensors files; one, or the shards of an index.
        others: small files that the weights' meaning depends on (configuration, index).
    """

    paths: tuple[Path, ...]
    others: tuple[Path, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape, from the headers.

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
                    f"{path.name} cannot be read ({error}).", where=str(path), fix=AGAIN
                ) from error
        return shapes

    @property
    def commit(self) -> str | None:
        """The hub's commit, for files in its local cache."""
        parent = self.paths[0].parent if self.paths else Path()
        while parent.name and parent.parent.name != "snapshots":
            parent = parent.parent
        return parent.name or None


def find_weight_files(
    path: str, revision: str | None, name: str = MODEL, inside: str = ""
) -> WeightFiles | None:
    """The files of a folder, or of a hub id in the local cache; None where they are not there.

    Args:
        path: what `hub.resolve` gave.
        name: the file as it is called unless it is split into shards.
        inside: the folder of a part.

    Raises:
        UserError: an index names a shard that is absent.
    """

    def find(file: str) -> Path | None:
        return hub.find_file(path, f"{inside}/{file}" if inside else file, revision)

    config = tuple(file for file in (find("config.json"),) if file)
    whole = find(name)
    if whole is not None:
        return WeightFiles((whole,), config)
    index = find(f"{name}.index.json")
    if index is None:
        return None
    shards = {shard: find(shard) for shard in _shards(index)}
    absent = [shard for shard, file in shards.items() if file is None]
    if absent and hub.is_local(path):
        raise UserError(
            f"{index.name} names {len(shards)} files, and {len(absent)} of them are not there: "
            f"{_few(absent)}.",
            where=str(index),
            fix=AGAIN,
        )
    if absent:
        return None  # of the hub's cache: what is not there yet is downloaded
    return WeightFiles(tuple(file for file in shards.values() if file), (*config, index))


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index.name} is no index of weights.", where=str(index), fix=AGAIN) from error


def _few(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
