"""Whether a merged model has the tensors of the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure


@measure(exact=True)
def merged_tensor_changes(run: Path) -> float:
    """Return the number of tensors, by name and shape, that only one of merged model and base has."""
    from ftcli.run.build import open_run

    trained = open_run(run)
    base, merged = trained.model_source.build_meta_model(), trained.method.merge(trained.model)
    return float(len(_shapes(base) ^ _shapes(merged)))


def _shapes(model: Any) -> set[tuple[Any, ...]]:
    return {(name, *tensor.shape) for name, tensor in model.named_parameters()}
