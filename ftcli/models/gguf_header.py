"""The header of a GGUF file: architecture, types of the tensors, values that transformers would lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.models.gguf_rope import UNKNOWN, read_rope_scaling

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

#: Types of GGUF that are no quantisation, and torch's name.
PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Header:
    """Facts of a GGUF file.

    Attributes:
        name: of the file.
        architecture: by llama.cpp's name.
        stored: type of the tensors -> their number, the most frequent first.
        dtype: torch's type of the weights that they are turned into: that of the matrices where
            these are plain and alike, else bfloat16.
        splitting: `tokenizer.ggml.pre`, where the tokenizer is a byte-level BPE; None for others.
        vocabulary: number of its tokens.
        ends: ids of the tokens that end an answer.
        rope: scaling of the rotary frequencies, as `rope_parameters` of transformers.
        licence: as the file states it, or None.
    """

    name: str
    architecture: str
    stored: dict[str, int]
    dtype: str
    splitting: str | None
    vocabulary: int
    ends: tuple[int, ...]
    rope: dict[str, Any]
    licence: str | None

    def describe(self) -> str:
        """Return one line: what is stored, and what it is turned into."""
        types = ", ".join(f"{count} in {kind}" for kind, count in self.stored.items())
        verb = "dequantised to" if set(self.stored) - set(PLAIN) else "read as"
        count = sum(self.stored.values())
        return f"{self.name}: {count} tensors of {self.architecture}, {types}; {verb} {self.dtype}"


def read_header(file: Path) -> Header:
    """Read the header of a file.

    Raises:
        UserError: it is no GGUF file, or cut off.
    """
    stat = file.stat()
    return _read_header(file, stat.st_size, stat.st_mtime_ns)


def read_config(file: Path) -> PreTrainedConfig:
    """Return the configuration that transformers makes of a header, with the type of the weights.

    Raises:
        UserError: the architecture is not known to transformers.
    """
    stat = file.stat()
    return deepcopy(_read_config(file, stat.st_size, stat.st_mtime_ns))


@contextmanager
def refuse_unreadable(file: Path) -> Iterator[None]:
    """Turn what the libraries raise on a file that they cannot read into one message."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{file.name} cannot be read without the package 'gguf'.",
            "model.path",
            "pip install gguf",
        ) from error
    except UserError:
        raise
    except Exception as error:  # these readers raise every kind: index, struct, key, overflow
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"{file.name} cannot be loaded: {reason}.",
            where=str(file),
            fix="model.path=FOLDER or hub id of the same model as safetensors, or another GGUF file",
        ) from error


@lru_cache(maxsize=4)
def _read_header(file: Path, size: int, written: int) -> Header:
    with refuse_unreadable(file):
        from gguf import GGUFReader

        reader = GGUFReader(file)
        architecture = _read_value(reader, "general.architecture")
        matrices = {t.tensor_type.name for t in reader.tensors if len(t.shape) > 1}
        ids = [
            _read_value(reader, f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")
        ]
        tokens = reader.get_field("tokenizer.ggml.tokens")
        bytewise = _read_value(reader, "tokenizer.ggml.model") == "gpt2"
        return Header(
            name=file.name,
            architecture=architecture,
            stored=dict(Counter(t.tensor_type.name for t in reader.tensors).most_common()),
            dtype=PLAIN.get(next(iter(matrices)), "bfloat16") if len(matrices) == 1 else "bfloat16",
            splitting=(_read_value(reader, "tokenizer.ggml.pre") or "") if bytewise else None,
            vocabulary=len(tokens.data) if tokens else 0,
            ends=tuple(dict.fromkeys(i for i in ids if i is not None)),
            rope=read_rope_scaling(reader, architecture),
            licence=_read_value(reader, "general.license"),
        )  # fmt: skip


@lru_cache(maxsize=4)
def _read_config(file: Path, size: int, written: int) -> PreTrainedConfig:
    import torch
    from transformers import AutoConfig

    with refuse_unreadable(file):
        config = AutoConfig.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
        )
    header = read_header(file)
    config.dtype = getattr(torch, header.dtype)
    return _scale_rope(config, header)


def _scale_rope(config: PreTrainedConfig, header: Header) -> PreTrainedConfig:
    """Set the rotary scaling that the file states, where transformers has not read it.

    Raises:
        UserError: no parameters give the frequencies of the file.
    """
    rope: Any = getattr(config.get_text_config(), "rope_parameters", None)
    if not header.rope or not rope or rope.get("rope_type", "default") != "default":
        return config
    if header.rope["rope_type"] == UNKNOWN:
        raise UserError(
            f"{header.name} scales its rotary frequencies in a way that transformers does not read.",
            where="model.path",
            fix="model.path=FOLDER or hub id of the same model as safetensors",
        )
    rope.update(header.rope)
    return config


def _read_value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
