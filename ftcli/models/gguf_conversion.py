"""A GGUF file, converted once into a folder of safetensors in the cache."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from ftcli.config.paths import cache_folder
from ftcli.core.atomic import write_folder, write_json
from ftcli.core.run_lock import lock_file
from ftcli.models import hub
from ftcli.models.gguf_header import Header, read_config, read_header, refuse_unreadable
from ftcli.models.gguf_tokenizer import load_tokenizer
from ftcli.models.state_dict_check import Misfit
from ftcli.models.weight_files import hash_file

RECORD = "conversion.json"
log = logging.getLogger("ftcli.models")


def convert(file: Path) -> Path:
    """Return the folder of a converted file, written where it is missing, damaged, or of another version.

    One process converts at a time; a reader finds the whole folder or none.

    Raises:
        UserError: transformers cannot read the file, or does not find the whole model in it.
    """
    folder = _locate_folder(file)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(folder.with_name(f".{folder.name}.lock"), wait=True):
        if find_converted(file) is None:
            _write(file, folder)
    return folder


def find_converted(file: Path) -> Path | None:
    """Return the folder of a converted file whose checksums hold; None where there is none."""
    import transformers

    folder = _locate_folder(file)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        whole = all(hash_file(folder / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return folder if whole and record["transformers"] == transformers.__version__ else None


def describe(file: Path) -> str:
    """Return what a file holds and what it is loaded as; that of a converted file needs no reading.

    Raises:
        UserError: the file cannot be read.
    """
    folder = find_converted(file)
    if folder is None:
        return read_header(file).describe()
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))["description"]


def _locate_folder(file: Path) -> Path:
    """Return the folder of a file's conversion, by the file's content."""
    return cache_folder("gguf") / f"{file.stem}-{hash_file(file)[:12]}"


def _write(file: Path, folder: Path) -> None:
    import transformers

    header = read_header(file)
    log.info(f"{header.describe()}, once, in {folder}")
    model, tokenizer = _load(file, header), load_tokenizer(file)
    with write_folder(folder) as unfinished, hub.quiet_progress_bars():
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        if header.licence:
            (unfinished / "README.md").write_text(f"---\nlicense: {header.licence}\n---\n", "utf-8")
        files = {
            str(f.relative_to(unfinished)): hash_file(f)
            for f in unfinished.rglob("*")
            if f.is_file()
        }
        write_json(
            unfinished / RECORD,
            {
                "description": header.describe(),
                "gguf": {"name": file.name, "sha256": hash_file(file)},
                "transformers": transformers.__version__,
                "files": files,
            },
        )  # fmt: skip


def _load(file: Path, header: Header) -> Any:
    """Load the dequantised model as a plain one.

    Raises:
        UserError: the file does not hold all of the model, or cannot be read.
    """
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    config = read_config(file)
    with refuse_unreadable(file), hub.quiet_progress_bars(), _quiet_reader():
        model, info = loader.from_pretrained(
            file.parent,
            gguf_file=file.name,
            config=config,
            dtype=config.dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **_dequantise(),
        )
    Misfit.from_info(info, model, {}).refuse(file.name, model, {})
    for holder, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(holder, name):  # by which save_pretrained would refuse plain weights
            delattr(holder, name)
    if len(header.ends) > 1:
        model.generation_config.eos_token_id = list(header.ends)
    return model


@contextmanager
def _quiet_reader() -> Iterator[None]:
    """Hide the reader's progress bar where stderr is no terminal; the library's switch does not."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(StringIO()):
        yield


def _dequantise() -> dict[str, Any]:
    """Return the argument by which transformers dequantises; before 5.24 it always does."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": config(dequantize=True)} if config else {}
