"""Small base models that are recipes themselves: trained once on this machine, found again by config.

`model.from_recipe: bases/NAME` in a job stands for the `model.path` of what that recipe trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.config.paths import cache_folder, job_name

KEY = "from_recipe"


def cache_dir() -> Path:
    """$FTCLI_CACHE/bases, or ~/.cache/ftcli/bases."""
    return cache_folder("bases")


def resolve_base(composed: Any) -> None:
    """Put the folder of the base in the place of `model.from_recipe`; nothing is trained yet."""
    model = composed.config.get("model")
    if not isinstance(model, dict) or KEY not in model:
        return
    composed.base = str(model.pop(KEY))
    origin = composed.origin(f"model.{KEY}")
    composed.forget(f"model.{KEY}")
    model["path"] = str(run_folder(base_job(composed.base)) / "model")
    composed.origins["model.path"] = origin


def base_job(name: str) -> Any:
    """The composed job that trains a base."""
    from ftcli.config.composition import compose
    from ftcli.config.validation import validate

    composed = compose(name)
    validate(composed)
    return composed


def run_folder(base: Any) -> Path:
    """The base's run directory."""
    from ftcli.core.config_hash import config_hash

    return cache_dir() / f"{job_name(base.job)}-{config_hash(base.config)}"


def is_there(composed: Any) -> bool:
    """Whether the base of a job is trained, or the job needs none."""
    return composed.base is None or Path(composed.config["model"]["path"]).is_dir()


def with_stand_in(composed: Any) -> dict[str, Any]:
    """The job's configuration; a base that is not trained yet is replaced by what it is trained from.

    Shapes, tokenizer and layers are those of the base: `method=full` keeps them.
    """
    config: dict[str, Any] = composed.config
    if is_there(composed):
        return config
    own = {key: value for key, value in config["model"].items() if key != "path"}
    return {**config, "model": {**with_stand_in(base_job(composed.base))["model"], **own}}


def steps(composed: Any) -> int | None:
    """How many steps the base of a job is trained for, where its recipe says so."""
    found = base_job(composed.base).get("trainer.max_steps")
    return found if isinstance(found, int) else None
