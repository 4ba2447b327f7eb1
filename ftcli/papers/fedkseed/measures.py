"""Measurements of the fedkseed recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure


@measure(exact=True)
def fedkseed_bytes(run: Path) -> float:
    """Bytes of the server's message and of the reply as they were sent, means over the run."""
    from ftcli.core.run_dir import RunDir

    result = RunDir(run).result()
    return float(result["bytes_down"] + result["bytes_up"])


@measure(exact=True)
def fedkseed_mean_error(run: Path) -> float:
    """Largest difference between the model after the first round and the mean of its clients' models.

    The round is repeated. The weights that each client has after its local steps are averaged in
    float64, weighted by its rows, and compared with the model rebuilt from the sums.
    """
    from ftcli.pipelines.federated.engines import ClientUpdate
    from ftcli.pipelines.federated.messages import unpack_reply
    from ftcli.pipelines.federated.server import Server
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    pipeline: Any = fresh.pipeline
    server = Server(pipeline, fresh)
    client = pipeline.build_client(fresh, server.context, server.shared)
    total = {name: value.double() * 0 for name, value in fresh.get_trained_tensors().items()}
    rows = 0

    def exchange(messages: Mapping[int, bytes]) -> ClientUpdate:
        nonlocal rows
        replies = {}
        for number, message in messages.items():
            replies[number] = client.answer(number, message)
            client_rows = unpack_reply(replies[number]).rows
            rows += client_rows
            for name, value in fresh.get_trained_tensors().items():
                total[name] += client_rows * value.double()
        return ClientUpdate(replies, 0, 0)

    server.run_round(exchange)
    state = fresh.get_trained_tensors()
    return max((state[n].double() - total[n] / rows).abs().max().item() for n in total)


@measure(exact=True)
def fedkseed_rebuild_difference(run: Path) -> float:
    """Largest difference between the trained weights and those rebuilt from `sums.bin`."""
    from ftcli.papers.fedkseed.pipeline import rebuild_from_sums
    from ftcli.reproduce.probe import measure_distance

    return measure_distance(run, rebuild_from_sums(run))
