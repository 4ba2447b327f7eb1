"""Where other programs end an answer: what `ftcli chat` knows, written beside the trained weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.core.atomic import write_json

GENERATION = "generation_config.json"


def save_generation(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the model's generation settings with every token that ends an answer.

    A base tuned on conversations learns to end with its template's end of turn, which the base's own
    `eos_token_id` need not hold. `generate`, `pipeline` and servers know no other place to look, so
    that they would write on until their limit. config.json, where there is one, says the same.

    Models that do not generate (classifiers, denoisers) are left alone.
    """
    settings = getattr(model, "generation_config", None)
    if settings is None or getattr(tokenizer, "eos_token_id", None) is None:
        return
    from ftcli.models.decoding import find_stop_ids

    settings.save_pretrained(folder)  # unchanged: the library refuses odd settings that were edited
    ends = _add_stops(settings.eos_token_id, find_stop_ids(tokenizer, model))
    pad = tokenizer.pad_token_id if settings.pad_token_id is None else settings.pad_token_id
    _update_json(folder / GENERATION, eos_token_id=ends, pad_token_id=pad)
    if (folder / "config.json").is_file():
        _update_json(folder / "config.json", eos_token_id=ends)


def _add_stops(before: int | Sequence[int] | None, stops: Sequence[int]) -> int | list[int]:
    """The base's own ids, then those that were learned; a single one stays a number."""
    own = [before] if isinstance(before, int) else list(before or ())
    ends = [*own, *(stop for stop in stops if stop not in own)]
    return ends[0] if len(ends) == 1 else ends


def _update_json(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, content | {key: value for key, value in values.items() if value is not None})
