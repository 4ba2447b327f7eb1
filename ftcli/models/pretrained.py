"""Load a pretrained model of transformers completely or refuse it, or check that by its file headers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ftcli.models import hub
from ftcli.models.state_dict_check import (
    Misfit,
    Shapes,
    compare_shapes,
    describe_prefixes,
    find_wrapper_prefixes,
    forget_prefixes,
    strip_prefixes,
    translate_conversion_error,
)
from ftcli.models.weight_files import find_weight_files

logger = logging.getLogger("ftcli.models")
Load = Callable[[bool, dict[str, str]], tuple[Any, dict[str, Any]]]


def load_pretrained(
    path: str, revision: str | None, build_meta_model: Callable[[], Any], load: Load
) -> tuple[Any, Misfit, Shapes]:
    """Load a model from folder, cache or hub; return it, its misfit with the files, and their shapes.

    Args:
        path: what `hub.resolve` returned.
        build_meta_model: builds the same model on the meta device.
        load: from (local_files_only, key_mapping) to the model and transformers' loading info.

    Raises:
        UserError: a file is absent or damaged, or the hub does not give it.
    """
    shapes, mapping = _read_shapes(path, revision, build_meta_model)
    with hub.quiet_progress_bars(), translate_conversion_error(path, "the model"):
        model, info = hub.load_cached_first(path, revision, lambda local: load(local, mapping))
        if not shapes:  # they were downloaded just now
            shapes, late = _read_shapes(path, revision, build_meta_model)
            if late:
                mapping = late
                model, info = load(True, mapping)
    if mapping:
        forget_prefixes(model, mapping)
        logger.warning(f"{path}: {describe_prefixes(mapping)}.")
    differs = any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    # compared on the meta device: quantised layers have further parameters
    return model, Misfit.from_info(info, build_meta_model() if differs else model, shapes), shapes


def compare_files(
    path: str, revision: str | None, build_meta_model: Callable[[], Any]
) -> tuple[Any, Misfit, Shapes, str] | None:
    """Return the model on the meta device, its misfit with the files, their shapes, and a note.

    Only headers are read. Returns None where the files are not on this machine.

    Raises:
        UserError: a file is absent or damaged.
    """
    files = find_weight_files(path, revision)
    if files is None:
        return None
    shapes, model = files.shapes(), build_meta_model()
    mapping = find_wrapper_prefixes(shapes, model)
    misfit = compare_shapes(path, model, shapes, mapping)
    return model, misfit, strip_prefixes(shapes, mapping), describe_prefixes(mapping)


def _read_shapes(
    path: str, revision: str | None, build_meta_model: Callable[[], Any]
) -> tuple[Shapes, dict[str, str]]:
    files = find_weight_files(path, revision)
    if files is None:
        return {}, {}
    shapes = files.shapes()
    mapping = find_wrapper_prefixes(shapes, build_meta_model())
    return strip_prefixes(shapes, mapping), mapping
