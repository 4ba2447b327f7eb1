"""Exact values of every schedule."""

import math

import pytest
from omegaconf import OmegaConf

from ftcli.config import build, configs_dir
from ftcli.core.errors import UserError
from ftcli.schedulers.constant import Constant
from ftcli.schedulers.cosine import Cosine
from ftcli.schedulers.linear import Linear
from ftcli.schedulers.wsd import WSD

FOLDER = configs_dir() / "scheduler"
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


def curve(scheduler, steps):
    return [scheduler.factor(step, steps) for step in range(steps)]


def test_linear():
    assert curve(Linear(), 4) == [1.0, 0.75, 0.5, 0.25]
    assert curve(Linear(warmup_steps=2), 6) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert curve(Linear(min_ratio=0.2), 4) == pytest.approx([1.0, 0.8, 0.6, 0.4])


def test_cosine():
    half = math.sqrt(0.5) / 2
    assert curve(Cosine(), 4) == pytest.approx([1.0, 0.5 + half, 0.5, 0.5 - half])
    assert curve(Cosine(warmup_steps=1, min_ratio=0.5), 3) == pytest.approx([1.0, 1.0, 0.75])
    assert Cosine(min_ratio=0.1).factor(10, 10) == pytest.approx(0.1)


def test_constant():
    assert curve(Constant(warmup_steps=4), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert curve(Constant(), 3) == [1.0] * 3


def test_wsd():
    assert curve(WSD(decay_ratio=0.4), 10) == [1.0] * 7 + [0.75, 0.5, 0.25]
    assert curve(WSD(warmup_steps=2, decay_ratio=0.5, min_ratio=0.5), 8) == (
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.875, 0.75, 0.625]
    )
    assert curve(WSD(decay_ratio=0.4, shape="sqrt"), 10)[6:] == pytest.approx(
        [1.0, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)]
    )
    assert curve(WSD(warmup_steps=8, decay_ratio=1.0), 10)[:8] == [i / 8 for i in range(1, 9)]


def test_warmup_is_a_share_of_the_run_unless_steps_are_given():
    assert Linear(warmup_ratio=0.03).warmup(1000) == 30
    assert Linear(warmup_ratio=0.03).warmup(10) == 0
    assert Linear(warmup_ratio=0.5, warmup_steps=3).warmup(1000) == 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_every_configuration_gives_a_positive_factor_at_every_step(name, steps):
    scheduler = build(OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml")))
    factors = curve(scheduler, steps)
    assert all(0 < factor <= 1 for factor in factors) and max(factors) == 1
    assert factors == curve(scheduler, steps)


@pytest.mark.parametrize("options", [{"warmup_ratio": 3}, {"min_ratio": -0.1}])
def test_a_share_outside_0_to_1_is_refused(options):
    with pytest.raises(UserError, match="not a share"):
        Linear(**options)


def test_a_run_longer_than_planned_stays_at_the_minimum():
    assert Linear(min_ratio=0.1).factor(20, 10) == pytest.approx(0.1)
    assert Cosine().factor(20, 10) == pytest.approx(0.0)
