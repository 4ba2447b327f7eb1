"""Whether hidden states that are kept from one epoch to the next change what is computed."""

from __future__ import annotations

from pathlib import Path

EXACT = True
BATCHES = 4


def qst_kept_states_difference(run: Path) -> float:
    """Largest difference of a token's loss, as a share of the largest loss, between kept states and none.

    Of the trained model, on the first batches of the second epoch after a first one that fills the
    store: documents meet others than those they were computed with.
    """
    import torch

    from ftcli.papers.qst.states import HiddenStates, Store
    from ftcli.papers.qst.tuner import side_layer
    from ftcli.reproduce.probe import loss_of
    from ftcli.run.build import open_run

    trained = open_run(run)
    loader, layer, furthest = trained.loader(), side_layer(trained.model), 0.0
    second = [loader.batch(rows) for rows in loader.batches(1)[:BATCHES]]
    wanted = {row for batch in second for row in batch["rows"]}
    first = [rows for rows in loader.batches(0) if wanted & set(rows)]
    store = HiddenStates(Store(float("inf")))
    with torch.no_grad():
        plain = [loss_of(trained, trained.model, batch) for batch in second]
        layer.states = store
        for rows in first:
            loss_of(trained, trained.model, loader.batch(rows))
        store.store.hits = 0
        for batch, expected in zip(second, plain, strict=True):
            kept = loss_of(trained, trained.model, batch)
            furthest = max(furthest, ((kept - expected).abs().max() / expected.max()).item())
    assert store.store.hits >= len(wanted)
    return furthest
