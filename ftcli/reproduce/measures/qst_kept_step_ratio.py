"""What a step costs once the hidden states of its rows are kept."""

from __future__ import annotations

from pathlib import Path

BATCHES, ROUNDS = 4, 3


def qst_kept_step_ratio(run: Path) -> float:
    """Time of forward and backward passes with kept hidden states over that of the same without."""
    from ftcli.papers.qst.states import HiddenStates, Store
    from ftcli.papers.qst.tuner import side_layer
    from ftcli.reproduce.measures.qst_step_over_lora import first_batches, seconds
    from ftcli.run.build import open_run

    trained = open_run(run)
    layer, batches = side_layer(trained.model), first_batches(trained, BATCHES)
    kept, spent = HiddenStates(Store(float("inf"))), {False: 0.0, True: 0.0}
    for turn in range(ROUNDS + 1):
        for with_kept in spent:
            layer.states = kept if with_kept else None
            took = seconds(trained, batches)
            spent[with_kept] += took if turn else 0.0  # the first fills the store
    return spent[True] / spent[False]
