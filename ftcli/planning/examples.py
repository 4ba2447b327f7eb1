"""What a check says of labelled examples that are no text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftcli.core.errors import UserError
from ftcli.planning.findings import Finding, failed, ok

READ = 4  # examples that are read and turned into tensors


def of_examples(data: Any, processor: Any, config: Any) -> Iterator[Finding]:
    """Counts of every split, the shape of an input, and whether the head has as many classes.

    Args:
        config: of the model.

    Raises:
        UserError: an example cannot be read, or a split is empty.
    """
    for split in data.splits:
        rows = data.prepare(split, processor)
        inputs = rows.batch(range(min(READ, len(rows))))["inputs"]
        shapes = ", ".join(f"{name} {list(tensor.shape[1:])}" for name, tensor in inputs.items())
        yield ok(
            "examples",
            f"{split}: {rows.summary()}, {min(rows.counts.values())} or more of each; {shapes}",
        )
    classes = getattr(config, "num_labels", None)
    if classes is not None and classes != len(data.names):
        yield failed("labels", UserError(
            f"the data have {len(data.names)} classes, the head has {classes}.",
            where="model.labels",
            fix=f"model.labels={len(data.names)}",
        ))  # fmt: skip
