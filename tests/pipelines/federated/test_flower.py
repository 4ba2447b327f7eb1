"""Flower as the engine: the same bytes travel, and the same model comes out."""

import importlib.util
import sys

import pytest
import torch
from safetensors.torch import load_file

from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import train
from ftcli.pipelines.federated import flower


@pytest.mark.parametrize("absent", ["flwr", "ray"])
def test_the_extra_is_named_where_flower_is_missing(monkeypatch, absent):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        flower.importlib.util, "find_spec", lambda n: None if n == absent else find("json")
    )
    with pytest.raises(UserError, match=absent) as error:
        flower.FlowerEngine({})
    assert error.value.fix == "pip install 'ftcli[federated]'"


def test_nothing_of_flower_is_loaded_without_it(federated_run):
    assert "flwr" not in sys.modules


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fedkseed", "fedkseed_pro"])
def test_two_clients_of_flower_end_at_the_same_bits(federated_job, kind):
    """A simulation of Flower with two nodes, in processes of their own; needs flwr and ray."""
    pytest.importorskip("flwr")
    pytest.importorskip("ray")
    torch.set_num_threads(1)
    options = (f"pipeline={kind}", "pipeline.clients=2", "pipeline.partition=dirichlet")
    local = train(federated_job(*options))
    flower = train(federated_job(*options, "pipeline.engine=flower"))
    weights = [
        load_file(RunDir(result["run"]).path / "checkpoints" / "last" / "adapter.safetensors")
        for result in (local, flower)
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    for key in ("bytes_down", "bytes_up", "metrics", "tokens", "forward_passes"):
        assert local[key] == flower[key], key
    for way in ("down", "up"):
        envelope = flower[f"wire_{way}"] - flower[f"bytes_{way}"]
        assert 0 < envelope < 400
        assert local[f"wire_{way}"] == local[f"bytes_{way}"]
