"""Rounds in one process: what travels, what it adds up to, and runs that were interrupted."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import resume, train
from ftcli.optimizers.replay import FILE as LOG
from ftcli.papers.fedkseed.pipeline import FILE, Scalars, rebuild_from_sums
from ftcli.pipelines.federated.engines import ClientUpdate
from ftcli.pipelines.federated.messages import pack_request, unpack_reply, unpack_request
from ftcli.pipelines.federated.server import Server
from ftcli.run.build import build_run, open_run


def server_of(composed):
    run = build_run(composed.config)
    server = Server(run.pipeline, run)
    return server, run.pipeline.build_client(run, server.context, server.shared)


def weights(context):
    return torch.cat([p.detach().flatten() for p in context.parameters])


@pytest.fixture(scope="module")
def one_round(federated_job):
    """Messages of one round, the models that its clients ended with, and the server after it."""
    server, client = server_of(federated_job("pipeline.partition=dirichlet", "pipeline.alpha=2"))
    server._rows, start = client.rows, weights(server.context).clone()
    calls, replies, models = {}, {}, {}

    def exchange(messages):
        for number, message in messages.items():
            calls[number], replies[number] = message, client.answer(number, message)
            models[number] = weights(server.context).clone()
        return ClientUpdate(dict(replies), 0, 0)

    server.run_round(exchange)
    return server, client, start, calls, replies, models


def test_the_new_model_is_the_mean_of_the_clients_models(one_round):
    server, client, _, _, _, models = one_round
    rows = [len(client.rows[number]) for number in models]
    mean = sum(n * models[number] for n, number in zip(rows, models, strict=True)) / sum(rows)
    assert len(set(rows)) > 1
    assert (weights(server.context) - mean).abs().max() < 1e-6
    assert (models[0] - models[1]).abs().max() > 1e-4


def test_the_sums_are_those_of_the_equation(one_round):
    server, client, start, _, replies, _ = one_round
    rows = np.array([len(part) for part in client.rows])
    expected = np.zeros(64)
    for number, text in replies.items():
        for index, slope in np.frombuffer(unpack_reply(text).body, "<u2,<f4").tolist():
            expected[index] += rows[number] / rows.sum() * slope
    assert np.allclose(server.shared.sums, expected, rtol=1e-6)
    optimizer = server.context.optimizer
    for parameter, value in zip(server.context.parameters, server.shared.start, strict=True):
        parameter.data.copy_(value)
    assert torch.equal(weights(server.context), start)
    optimizer.apply_sums(expected.tolist())
    moved = weights(server.context)
    server.shared.load(server.shared.broadcast())
    assert (weights(server.context) - moved).abs().max() < 1e-6


def test_a_client_is_the_replay_of_what_it_received_and_sent(one_round):
    server, _, _, calls, replies, models = one_round
    sums = np.frombuffer(unpack_request(calls[1])[1], "<f4").copy()
    for index, slope in np.frombuffer(unpack_reply(replies[1]).body, "<u2,<f4").tolist():
        sums[index] += slope
    server.shared.load(sums.tobytes())
    assert (weights(server.context) - models[1]).abs().max() < 1e-5


def test_a_message_is_four_bytes_a_seed_and_six_a_step(one_round):
    _, _, _, calls, replies, _ = one_round
    assert {len(text) for text in calls.values()} == {4 * 64 + 4}
    assert {len(text) for text in replies.values()} == {6 * 3 + 20}


def test_a_round_of_the_paper_is_below_18_kilobytes(federated_job):
    steps = ("pipeline.local_steps=200", "trainer.max_steps=200", "optimizer.pool=4096")
    server, client = server_of(
        federated_job(*steps, "trainer.batch_size=1", "pipeline.members=[0]")
    )
    message = pack_request(0, server.shared.broadcast())
    client.shared.after_step = Scalars.after_step.__get__(client.shared)
    client.run.trainer.step = lambda local, batches: _pretend(client, local)
    reply = client.answer(0, message)
    assert len(message) + len(reply) == 4 * 4096 + 6 * 200 + 24 < 18_000


def _pretend(client, local):
    """A local step without the two forward passes."""
    client.run.optimizer_builder.optimizer.step(lambda: torch.tensor(1.0))
    client.shared.after_step(local.state)
    local.meter.record_step(1, torch.tensor(1.0), None, [], 1)


def test_clients_forget_and_answer_alike_in_any_order(federated_job, one_round):
    calls, replies = one_round[3], one_round[4]
    _, client = server_of(federated_job("pipeline.partition=dirichlet", "pipeline.alpha=2"))
    for number in (2, 0, 2, 1):
        assert client.answer(number, calls[number]) == replies[number]


def test_a_run_is_rebuilt_from_its_start_and_its_scalars_alone(federated_run):
    assert (federated_run / FILE).stat().st_size == 4 * 64
    assert not (federated_run / LOG).exists()
    trained, again = open_run(federated_run), rebuild_from_sums(federated_run)
    for (name, a), b in zip(
        trained.get_trained_tensors().items(), again.get_trained_tensors().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_a_run_records_rounds_and_bytes(federated_run):
    result, lines = RunDir(federated_run).result(), RunDir(federated_run).metrics()
    assert (result["step"], result["rounds"]) == (9, 3)
    assert (result["bytes_down"], result["bytes_up"]) == (4 * 64 + 4, 6 * 3 + 20)
    assert result["wire_down"] == result["bytes_down"] and result["wire_up"] == result["bytes_up"]
    assert result["forward_passes"] == 3 * 3 * 3 * 2
    assert result["optimizer_state_elements"] == 0
    rounds = [line for line in lines if "round" in line]
    assert [line["round"] for line in rounds] == [1, 2, 3]
    assert [line["tokens"] for line in rounds][-1] == result["tokens"] > 0
    assert "260 bytes" in (federated_run / "report.md").read_text()


def last(folder):
    return load_file(folder / "checkpoints" / "last" / "adapter.safetensors")


@pytest.mark.parametrize(
    "kind", [("pipeline=fedkseed_pro",), ("pipeline=fedavg", "optimizer=adamw")]
)
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(federated_job, kind, tmp_path):
    options = (*kind, "trainer.save_every=3", "trainer.keep_last=9", "pipeline.fraction=0.67")
    whole = RunDir(train(federated_job(*options))["run"]).path
    cut = whole.with_name(f"{whole.name}-cut")
    shutil.copytree(whole, cut, symlinks=True)
    for step in (6, 9):
        shutil.rmtree(cut / "checkpoints" / f"step-{step:06d}")
    (cut / "checkpoints" / "last").unlink()
    (cut / "result.json").unlink()
    result = resume(cut)
    assert result["rounds"] == 3
    assert all(torch.equal(value, last(cut)[name]) for name, value in last(whole).items())
    keys = ("round", "loss", "bytes_up", "bytes_down", "clients", "tokens")
    metrics = [[[r.get(k) for k in keys] for r in RunDir(f).metrics()] for f in (whole, cut)]
    assert json.dumps(metrics[0]) == json.dumps(metrics[1])


def test_pro_draws_by_the_size_of_slopes(federated_job):
    server, client = server_of(federated_job("pipeline=fedkseed_pro"))
    shared = server.shared
    assert np.allclose(shared.probabilities(), 1 / 64)

    def exchange(messages):
        return ClientUpdate({c: client.answer(c, m) for c, m in messages.items()}, 0, 0)

    server.run_round(exchange)
    probabilities = shared.probabilities()
    assert probabilities.sum() == pytest.approx(1)
    seen = shared.seen > 1
    assert probabilities[seen].min() > probabilities[~seen].max()
    assert probabilities.max() / probabilities.min() == pytest.approx(np.e)
    assert len(shared.broadcast()) == 8 * 64
    shared.size, shared.seen = np.full(64, 6.0), np.full(64, 3.0)
    assert np.allclose(shared.probabilities(), 1 / 64)
    shared.size, shared.seen = np.array([0.0] * 62 + [2.0, 3.0]), np.array([1.0] * 62 + [2.0, 1.0])
    powers = np.exp([0.0] * 62 + [1 / 3, 1.0])
    assert np.allclose(shared.probabilities(), powers / powers.sum())


def test_averaging_weights_is_the_mean_of_what_clients_send(federated_job):
    server, client = server_of(federated_job("pipeline=fedavg", "optimizer=adamw"))
    models = {}

    def exchange(messages):
        replies = {}
        for number, message in messages.items():
            replies[number] = client.answer(number, message)
            models[number] = weights(server.context).clone()
        return ClientUpdate(replies, 0, 0)

    server.run_round(exchange)
    rows = [len(part) for part in client.rows]
    mean = sum(n * models[number] for number, n in enumerate(rows)) / sum(rows)
    assert (weights(server.context) - mean).abs().max() < 1e-6
    assert (models[0] - models[1]).abs().max() > 1e-4


def test_adapters_travel_alone(federated_job):
    adapter = (
        "method=lora",
        "method.r=2",
        "pipeline=fedavg",
        "optimizer=adamw",
        "trainer.max_steps=3",
    )
    result = train(federated_job(*adapter))
    trained = result["trainable_parameters"]
    assert 4 * trained <= result["bytes_up"] < 4 * trained + 4000
    assert trained < result["total_parameters"] / 20


def test_members_and_weights_are_as_asked(federated_job):
    server, client = server_of(
        federated_job("pipeline.members=[1,2]", "pipeline.fraction=0.5", "pipeline.weighting=equal")
    )
    seen = set()
    for _ in range(12):
        members = server._members()
        assert len(members) == 1 and members == server._members()
        seen |= set(members)
        server.context.state.step += 3
    assert seen == {1, 2}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("trainer.max_steps=10", "whole rounds"),
        ("data.packing=bins", "rows of different clients"),
        ("scheduler.warmup_steps=2", "constant"),
        ("optimizer.pool=70000", "16 bits"),
        ("optimizer.weight_decay=0.1", "no weight decay"),
        ("trainable=lisa", "policy"),
    ],
)
def test_what_rounds_cannot_do_is_refused(federated_job, override, what):
    run = build_run(federated_job(override).config)
    with pytest.raises(UserError, match=what):
        run.pipeline.start(run)


@pytest.mark.parametrize(
    "override",
    [
        "optimizer=adamw",
        "scheduler=linear",
        "pipeline.fraction=0",
        "pipeline.members=[3]",
        "pipeline.clients=0",
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_loaded(federated_job, override):
    with pytest.raises(UserError, match="optimizer|scheduler|pipeline|clients|positive"):
        build_run(federated_job(override).config)
