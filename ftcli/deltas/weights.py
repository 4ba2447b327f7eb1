"""Named tensors in safetensors files, read and written one at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ftcli.core.errors import UserError

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DTYPES = {name: dtype for dtype, name in NAMES.items()}
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


class LazyWeights(Mapping[str, Tensor]):
    """Named tensors that are computed when they are read.

    Args:
        layout: name -> shape and dtype.
        read: function that returns the tensor of a name.
    """

    def __init__(self, layout: Layout, read: Callable[[str], Tensor]) -> None:
        self.layout, self._read = layout, read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.layout:
            raise KeyError(name)
        shape, dtype = self.layout[name]
        tensor = self._read(name).to(dtype)
        assert tuple(tensor.shape) == tuple(shape), name
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)


class FileWeights(Mapping[str, Tensor]):
    """The tensors of all safetensors files of a folder, by name, read on access.

    Args:
        without: names to leave out.

    Raises:
        UserError: the folder has no such file, or a file cannot be read.
    """

    def __init__(self, folder: Path, without: frozenset[str] = frozenset()) -> None:
        self.folder, self._without, self._open = folder, without, ExitStack()
        self.files = sorted(folder.glob("*.safetensors"))
        if not self.files:
            raise UserError(f"{folder} holds no *.safetensors.", fix="name a model or an adapter")

    @cached_property
    def _places(self) -> dict[str, Any]:
        """Name -> handle of the open file with the tensor."""
        handles: dict[str, Any] = {}
        for file in self.files:
            try:
                handle = self._open.enter_context(safe_open(file, framework="pt"))
            except Exception as error:  # the library's own class: cut off, not safetensors
                raise UserError(f"{file} cannot be read: {error}") from error
            handles |= dict.fromkeys(handle.keys(), handle)
        return {name: handles[name] for name in sorted(handles) if name not in self._without}

    @cached_property
    def layout(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name -> shape and dtype, from the headers alone."""
        layout = {}
        for name, handle in self._places.items():
            part = handle.get_slice(name)
            kind = DTYPES.get(part.get_dtype())
            if kind is None:
                raise UserError(f"{name} is stored as {part.get_dtype()}, which is no plain type.")
            layout[name] = (tuple(part.get_shape()), kind)
        return layout

    def __getitem__(self, name: str) -> Tensor:
        return self._places[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_layout(weights: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return name -> shape and dtype of any named tensors."""
    if isinstance(weights, FileWeights | LazyWeights):
        return dict(weights.layout)
    return {name: (tuple(weights[name].shape), weights[name].dtype) for name in sorted(weights)}


def write_weights(path: Path, tensors: LazyWeights | FileWeights) -> int:
    """Write a safetensors file while holding one tensor at a time; returns its bytes."""
    layout = tensors.layout
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, dtype) in layout.items():
        begin, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in layout:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            stream.write(flat.view(torch.uint8).numpy().tobytes())
    return path.stat().st_size
