"""Files of a model: a folder, what ships with ftcli, the local cache of the hub, then the network.

The cache comes first, so that a machine without network loses no time and a run that has started
once starts again. Before a download the hub is asked once, without the library's retries; a missing,
gated or unreachable model becomes one message.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ASSETS = Path(__file__).parent.parent / "assets"
ASSET, OWNER = "asset:", "ftcli/"  # before the name of a model that ships
PACKAGE, GGUF = "package:", ".gguf"  # before a package that holds a model; end of a file's name
SECONDS = 5  # to wait for the hub's first answer

T = TypeVar("T")


def resolve(path: str, key: str = "model.path") -> str:
    """Return the folder of `asset:NAME` or of a local path, else the hub id unchanged.

    Raises:
        UserError: there is no such asset or folder.
    """
    if path.startswith(OWNER) and (ASSETS / "models" / path.removeprefix(OWNER)).is_dir():
        path = f"{ASSET}{path.removeprefix(OWNER)}"
    if path.startswith(ASSET):
        folder = ASSETS / "models" / path.removeprefix(ASSET)
        if not folder.is_dir():
            shipped = ", ".join(f"asset:{f.name}" for f in sorted((ASSETS / "models").iterdir()))
            raise UserError(f"{path}: no such model ships with ftcli.", where=key, fix=shipped)
        return str(folder)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        raise UserError(
            f"{path} is neither a folder nor a hub id (owner/name).",
            where=key,
            fix=f"{key}=FOLDER, or model=llama_mini, which ships with ftcli",
        )
    return path


def published_name(path: str) -> str | None:
    """Return a model's public name: a hub id, `ftcli/NAME` for one that ships; None for files.

    `resolve` takes both names of a shipped model; the second has the form of a hub id, which model
    cards and adapters want.
    """
    if path.startswith(ASSET):
        return f"{OWNER}{path.removeprefix(ASSET)}"
    if path.startswith(PACKAGE) or path.endswith(GGUF):
        return None
    return None if is_local(resolve(path)) and not path.startswith(OWNER) else path


def set_model_name(model: Any, path: str) -> None:
    """Set the name by which other programs find the model: its public name, not a path in this package."""
    name = published_name(path)
    if name is not None:
        model.name_or_path = model.config._name_or_path = name


def is_local(path: str) -> bool:
    """Whether a resolved path is a folder."""
    return Path(path).is_dir()


def find_file(path: str, name: str, revision: str | None) -> Path | None:
    """Find a file of a resolved path in the folder or in the hub's local cache; None if absent."""
    if is_local(path):
        file = Path(path) / name
        return file if file.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(path, name, revision=revision or "main")
    return Path(cached) if isinstance(cached, str) else None


def load_cached_first(path: str, revision: str | None, load: Callable[[bool], T]) -> T:
    """Call `load(local_files_only)` on folder or cache, then on the hub, and return its result.

    Raises:
        UserError: the folder is not a model, or the hub does not give it.
    """
    from safetensors import SafetensorError

    if is_local(path):
        try:
            return load(True)
        except (OSError, ValueError, SafetensorError) as error:
            raise _make_unreadable_error(path, error) from error
    try:
        return load(True)
    except (OSError, ValueError):
        ask_hub(path, revision)
    try:
        return load(False)
    except (OSError, ValueError, SafetensorError) as error:
        raise _make_unreadable_error(path, error) from error


def load_config(path: str, revision: str | None, fallback_config: str | None) -> PreTrainedConfig:
    """Load a model's configuration from folder, cache or hub.

    Args:
        fallback_config: shipped architecture whose configuration is used if the model's is not on this machine.

    Raises:
        UserError: it is not found, or the hub does not give it.
    """
    from transformers import AutoConfig

    def load(local: bool) -> PreTrainedConfig:
        return AutoConfig.from_pretrained(
            path, revision=revision or "main", trust_remote_code=False, local_files_only=local
        )

    if fallback_config is None or is_local(path):
        return load_cached_first(path, revision, load)
    try:
        return load(True)
    except (OSError, ValueError):
        return AutoConfig.from_pretrained(
            find_architecture(fallback_config), trust_remote_code=False
        )


def find_architecture(name: str) -> Path:
    """Return the folder of an architecture that ships: a configuration without weights.

    Raises:
        UserError: there is none of this name.
    """
    folder = ASSETS / "architectures" / name
    if not folder.is_dir():
        shipped = ", ".join(sorted(f.name for f in folder.parent.iterdir()))
        raise UserError(
            f"no architecture {name!r} ships with ftcli.",
            where="model.architecture",
            fix=f"one of {shipped}, or null",
        )
    return folder


@contextmanager
def quiet_progress_bars() -> Iterator[None]:
    """Disable the library's progress bars inside the block where stderr is no terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def ask_hub(path: str, revision: str | None = None) -> None:
    """Ask the hub once for the model's config.json.

    Raises:
        UserError: the hub cannot be reached, has no such model, or refuses access to it.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub import errors as hub

    if constants.HF_HUB_OFFLINE:
        raise _make_unreachable_error(path, "HF_HUB_OFFLINE is set")
    try:
        get_hf_file_metadata(
            hf_hub_url(path, "config.json", revision=revision),
            timeout=SECONDS,
        )
    except hub.GatedRepoError as error:
        raise _make_gated_error(path, error) from error
    except hub.RepositoryNotFoundError as error:
        raise _make_missing_error(path, error) from error
    except hub.RevisionNotFoundError as error:
        raise UserError(
            f"{path} has no revision {revision!r}.",
            where="model.revision",
            fix="model.revision=main",
        ) from error
    except hub.EntryNotFoundError:
        return  # a model without config.json is for the loader to refuse
    except Exception as error:  # the HTTP library's own classes: no name, no route, no answer
        raise _make_unreachable_error(path, str(error).strip() or type(error).__name__) from error


def _make_gated_error(path: str, error: Exception) -> UserError:
    from huggingface_hub import get_token

    token = "the token has no access to it" if get_token() else "no token is set"
    return UserError(
        f"{path} is gated ({_get_status(error)}) and {token}.",
        where="model.path",
        fix=f"hf auth login, and accept the licence on the page of {path}; or model=llama_mini, "
        "which ships with ftcli. Offline? model.path=FOLDER with its files",
    )


def _make_missing_error(path: str, error: Exception) -> UserError:
    from huggingface_hub import get_token

    private = "" if get_token() else " (or it is private: hf auth login)"
    return UserError(
        f"the hub has no model {path} ({_get_status(error)}){private}.",
        where="model.path",
        fix="correct the id; `ftcli ls models` lists those with a config; model=llama_mini ships",
    )


def _make_unreachable_error(path: str, why: str) -> UserError:
    return UserError(
        f"{path} is not in the local cache and the hub cannot be reached ({why}).",
        where="model.path",
        fix="model.path=FOLDER with its files, or model=llama_mini, which ships with ftcli",
    )


def _make_unreadable_error(path: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()
    return UserError(
        f"{path} cannot be loaded: {reason[0] if reason else type(error).__name__}",
        where="model.path",
        fix="a model is a folder or hub id with config.json, *.safetensors and tokenizer files",
    )


def _get_status(error: Exception) -> int | str:
    return getattr(getattr(error, "response", None), "status_code", "refused")
