"""generation_config.json beside trained weights: the tokens at which other programs end an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.core.atomic import write_json

GENERATION = "generation_config.json"


def save_generation(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the model's generation settings with every token that ends an answer.

    A base tuned on conversations learns to end with its template's end of turn, which the base's
    `eos_token_id` need not include. `generate`, `pipeline` and servers read nothing else and would go
    on to their limit. config.json, where there is one, gets the same ids.

    Nothing is written for models that do not generate (classifiers, denoisers).
    """
    settings = getattr(model, "generation_config", None)
    if settings is None or getattr(tokenizer, "eos_token_id", None) is None:
        return
    from ftcli.models.decoding import find_stop_ids

    settings.save_pretrained(
        folder
    )  # unchanged: the library refuses inconsistent settings that were edited
    ends = _add_stops(settings.eos_token_id, find_stop_ids(tokenizer, model))
    pad = tokenizer.pad_token_id if settings.pad_token_id is None else settings.pad_token_id
    _update_json(folder / GENERATION, eos_token_id=ends, pad_token_id=pad)
    if (folder / "config.json").is_file():
        _update_json(folder / "config.json", eos_token_id=ends)


def _add_stops(before: int | Sequence[int] | None, stops: Sequence[int]) -> int | list[int]:
    """Return the base's ids, then those that were learned; a single one as a number."""
    ids = [before] if isinstance(before, int) else list(before or ())
    ends = [*ids, *(stop for stop in stops if stop not in ids)]
    return ends[0] if len(ends) == 1 else ends


def _update_json(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, content | {key: value for key, value in values.items() if value is not None})
