"""Flower as the engine: the server is a ServerApp, each client a node of Flower's simulation.

Each message is one record with the same bytes as in the local engine, so that both engines compute the
same; Flower's own strategies are not used.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import FAILED, UserError, missing_package
from ftcli.pipelines.federated.engines import ClientUpdate, Exchange

if TYPE_CHECKING:
    from ftcli.pipelines.federated.client import Client

RECORD, BODY, NUMBER = "round", "body", "client"
PATIENCE = 600  # seconds to wait for all nodes


class FlowerEngine:
    """Clients in processes of Flower's simulation runtime, each with its own model.

    Args:
        config: resolved configuration of the run, from which every process builds its parts.

    Raises:
        UserError: Flower or the Ray it needs is not installed.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        for package in ("flwr", "ray"):
            if importlib.util.find_spec(package) is None:
                raise missing_package(package, "federated", "pipeline.engine=flower")
        self.config = config
        # Flower sends telemetry at every start unless this is set
        os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

    def run(self, work: Callable[[Exchange], Any]) -> Any:
        """Call `work` in a ServerApp; the simulation ends with it."""
        from flwr.serverapp import ServerApp
        from flwr.simulation import run_simulation

        logging.getLogger("flwr").setLevel(logging.WARNING)
        done: list[Any] = []
        server, clients = ServerApp(), int(self.config["pipeline"]["clients"])

        @server.main()
        def serve(grid: Any, context: Any) -> None:
            done.append(work(_Grid(grid, clients)))

        run_simulation(
            server, _build_client_app(self.config), num_supernodes=clients,
            backend_config={"client_resources": _client_resources()},
        )  # fmt: skip
        return done[0]


class _Grid:
    """Sends the requests of a round over Flower's grid, and counts the bytes sent.

    Args:
        clients: number of nodes to wait for before the first round.
    """

    def __init__(self, grid: Any, clients: int) -> None:
        self.grid, self.clients = grid, clients
        self._nodes: dict[int, int] = {}  # client -> node of Flower

    def __call__(self, messages: Mapping[int, bytes]) -> ClientUpdate:
        self._nodes = self._nodes or self._find_nodes()
        sent = [
            _build_message({BODY: body}, self._nodes[client], "train")
            for client, body in messages.items()
        ]
        answers = self._send(sent)
        replies = {a.content[RECORD][NUMBER]: a.content[RECORD][BODY] for a in answers}
        return ClientUpdate(replies, _count_bytes(sent), _count_bytes(answers))

    def _find_nodes(self) -> dict[int, int]:
        """Wait for all nodes; returns client -> node."""
        until = time.monotonic() + PATIENCE
        while len(nodes := list(self.grid.get_node_ids())) < self.clients:
            if time.monotonic() > until:
                raise UserError(
                    f"only {len(nodes)} of {self.clients} clients came within {PATIENCE} s.",
                    where="pipeline.engine=flower",
                    fix="lower pipeline.clients, or pipeline.engine=local",
                    code=FAILED,
                )
            time.sleep(0.2)
        answers = self._send([_build_message({}, node, "query") for node in nodes])
        return {a.content[RECORD][NUMBER]: a.metadata.src_node_id for a in answers}

    def _send(self, messages: list[Any]) -> list[Any]:
        answers = list(self.grid.send_and_receive(messages))
        for answer in answers:
            if answer.has_error():
                raise UserError(
                    f"a client failed: {answer.error.reason}",
                    where="pipeline.engine=flower",
                    fix="pipeline.engine=local shows where",
                    code=FAILED,
                )
        return answers


def _build_client_app(config: dict[str, Any]) -> Any:
    """Return the ClientApp that runs in the processes of the clients."""
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.clientapp import ClientApp

    app, folder = ClientApp(), os.getcwd()

    def answer(message: Any, **fields: Any) -> Any:
        return Message(RecordDict({RECORD: ConfigRecord(fields)}), reply_to=message)

    @app.query()
    def who(message: Any, context: Any) -> Any:
        return answer(message, client=context.node_config["partition-id"])

    @app.train()
    def train(message: Any, context: Any) -> Any:
        os.chdir(folder)  # paths of a job are relative to where it was started
        number = int(context.node_config["partition-id"])
        body = get_client(config).answer(number, message.content[RECORD][BODY])
        return answer(message, client=number, body=body)

    return app


_clients: dict[str, Client] = {}  # of this process


def get_client(config: dict[str, Any]) -> Client:
    """Return the client of this process, built at its first message."""
    from ftcli.jobs.train import load_init_weights
    from ftcli.run.build import build_run

    key = json.dumps(config, sort_keys=True, default=str)
    if key not in _clients:
        run = build_run(config | {"logger": {}})
        if config.get("init_from"):
            load_init_weights(run, config["init_from"])
        settings: Any = run.pipeline
        _clients[key] = settings.build_client(run, *settings.start(run))
    return _clients[key]


def _build_message(fields: dict[str, Any], node: int, kind: str) -> Any:
    from flwr.app import ConfigRecord, Message, RecordDict

    return Message(RecordDict({RECORD: ConfigRecord(fields)}), node, kind)


def _count_bytes(messages: Iterable[Any]) -> int:
    """Return the bytes of messages as Flower serialises them for the network."""
    from flwr.common.serde import message_to_proto

    return sum(message_to_proto(message).ByteSize() for message in messages)


def _client_resources() -> dict[str, float]:
    """Return the resources of one client process: a core, and a whole GPU where there is one."""
    import torch

    return {"num_cpus": 1, "num_gpus": 1.0 if torch.cuda.is_available() else 0.0}
