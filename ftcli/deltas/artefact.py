"""Models and adapters in folders: results of training, and the bases they were trained from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.deltas.weights import FileWeights

Kind = Literal["model", "adapter"]
SAMPLE = 64  # entries of each tensor that a fingerprint reads


@dataclass(frozen=True)
class Artefact:
    """The weights in a folder, with its configuration.

    Attributes:
        folder: holds *.safetensors and config.json (a model) or adapter_config.json.
        run: the run directory that holds the folder.
    """

    folder: Path
    kind: Kind
    run: Path | None = None

    @classmethod
    def open(cls, path: str | Path) -> Artefact:
        """Open the final weights of a run directory, a model or adapter folder, asset:NAME, or a cached hub id.

        Raises:
            UserError: the path is none of these.
        """
        folder = Path(path).expanduser()
        if (folder / "config.yaml").is_file():
            return cls._of_run(folder)
        if not folder.is_dir():
            folder = _find_folder(str(path))
        for name, kind in CONFIG_FILES.items():
            if (folder / name).is_file():
                return cls(folder, kind)
        raise UserError(
            f"{folder} is neither a run, nor a model (config.json), nor an adapter.",
            fix="ftcli ls runs",
        )

    @classmethod
    def _of_run(cls, run: Path) -> Artefact:
        for kind in CONFIG_FILES.values():
            if (run / kind).is_dir():
                return cls(run / kind, kind, run)
        raise UserError(f"{run} has no final weights: it has not ended.", fix=f"ftcli resume {run}")

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of config.json or adapter_config.json."""
        name = next(name for name, kind in CONFIG_FILES.items() if kind == self.kind)
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    @cached_property
    def weights(self) -> FileWeights:
        """The tensors by name; a tied head appears once."""
        if self.kind == "adapter" or not self.config.get("tie_word_embeddings"):
            return FileWeights(self.folder)
        head = self.anatomy.head
        tied = {f"{head[0]}.weight"} if head is not None and self.anatomy.tied else set()
        return FileWeights(self.folder, frozenset(tied))

    @cached_property
    def anatomy(self) -> Any:
        """Anatomy of the model, built without weights; for an adapter, that of its base."""
        import transformers

        from ftcli.models.anatomy import Anatomy

        if self.kind == "adapter":
            return self.base.anatomy
        config = transformers.AutoConfig.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False
        )
        name = (config.architectures or ["AutoModelForCausalLM"])[0]
        with torch.device("meta"):
            return Anatomy(getattr(transformers, name)._from_config(config))

    @property
    def vocabulary(self) -> frozenset[str]:
        """Names of the tensors with one row per token."""
        token = self.anatomy.embeddings[:1]
        head = [self.anatomy.head] if self.anatomy.head else []
        return frozenset(f"{name}.weight" for name, _ in [*token, *head])

    @property
    def base(self) -> Artefact:
        """The base that the weights were trained from, by the run or the adapter configuration.

        Raises:
            UserError: no base is recorded, or the folder of the base holds another model now.
        """
        if self.run is not None:
            from ftcli.config import build, load
            from ftcli.core.base_model import refuse_other_base
            from ftcli.models.gguf_source import GgufSource

            model = load(self.run / "config.yaml").config["model"]
            refuse_other_base(self.run, build(model, "model", None))
            gguf = GgufSource.from_model(
                model["path"], model.get("gguf_file"), model.get("revision")
            )
            named = gguf.convert() if gguf else model["path"]
        else:
            named = self.config.get("base_model_name_or_path") if self.kind == "adapter" else None
        if not named:
            raise UserError(f"{self.folder} does not say what it was trained from.", "--base")
        return Artefact.open(named)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that identify the values; see `compute_fingerprint`."""
        return compute_fingerprint(self.weights)

    @property
    def small_files(self) -> list[Path]:
        """Files other than weights: configuration, tokenizer, chat template."""
        skipped = ("README.md", "LICENSE.md", "delta.json")
        return sorted(
            file
            for file in self.folder.iterdir()
            if file.is_file()
            and file.suffix not in (".safetensors", ".bin", ".pt", ".h5", ".msgpack", ".gguf")
            and not file.name.endswith(".safetensors.index.json")
            and file.name not in skipped
        )

    @property
    def tokenizer(self) -> list[Path]:
        """Small files without the configuration of model or adapter; generation settings are included."""
        return [file for file in self.small_files if file.name not in CONFIG_FILES]


#: Configuration file -> what a folder with it holds.
CONFIG_FILES: dict[str, Kind] = {"adapter_config.json": "adapter", "config.json": "model"}


def compute_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits that distinguish one pretrained model from another.

    Names, shapes and 64 evenly spaced values of each tensor as float32, so that the same values
    stored in a wider type have the same fingerprint. Models from different training
    runs differ in nearly every value; the digits do not protect against forgery.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(weights):
        tensor = weights[name]
        if not tensor.is_floating_point():
            continue
        flat = tensor.detach().reshape(-1)
        last = flat.numel() - 1  # float32 rounds it up in tensors of more than 2**24 entries
        chosen = torch.linspace(0, last, min(SAMPLE, flat.numel())).long().clamp(max=last)
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(flat[chosen].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _find_folder(path: str) -> Path:
    """Return the folder of an asset, or of a hub id in the local cache."""
    from ftcli.models import hub

    location = hub.resolve(path, "the model")
    if hub.is_local(location):
        return Path(location)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(location, local_files_only=True))
    except Exception as error:  # the library's own classes: not cached, or not whole
        raise UserError(
            f"{location} is not in the local cache.", fix=f"hf download {location}"
        ) from error
