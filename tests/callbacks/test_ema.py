"""The average of the trained weights: its equation, and which weights the model holds when."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ftcli.callbacks.ema import EMA
from ftcli.core.errors import UserError


def start(dtype=torch.float32, **options) -> tuple[EMA, nn.Parameter]:
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
    optimizer = SimpleNamespace(optimizer=torch.optim.SGD([weight], lr=0.1))
    ema = EMA(**options)
    method = SimpleNamespace(averageable=True)
    ema.setup(SimpleNamespace(pipeline=None, optimizer_builder=optimizer, method=method))
    return ema, weight


def move(ema: EMA, weight: nn.Parameter, values: list[float]) -> None:
    for value in values:
        weight.data.fill_(value)
        ema.after_step(SimpleNamespace())


def test_the_average_with_a_constant_decay():
    ema, weight = start(decay=0.9, warmup=False)
    move(ema, weight, [2.0, 4.0])
    expected = [0.9 * (0.9 * w + 0.1 * 2.0) + 0.1 * 4.0 for w in (1.0, -2.0)]
    torch.testing.assert_close(ema.state_dict()["average"][0], torch.tensor(expected))


def test_a_lower_decay_in_the_first_steps():
    ema, weight = start(decay=0.2)
    move(ema, weight, [2.0, 4.0])
    first = 2 / 11 * 1.0 + 9 / 11 * 2.0  # min(0.2, 2 / 11)
    torch.testing.assert_close(
        ema.state_dict()["average"][0][0], torch.tensor(0.2 * first + 0.8 * 4.0)  # min(0.2, 3 / 12)
    )  # fmt: skip


def test_evaluation_sees_the_average_and_training_goes_on_to_the_bit():
    ema, weight = start(torch.bfloat16, decay=0.5, warmup=False)
    move(ema, weight, [0.3])
    raw, kept = weight.detach().clone(), ema.state_dict()["average"][0].clone()
    ema.swap_in_eval_weights()
    ema.swap_in_eval_weights()
    assert torch.equal(weight.detach(), kept.bfloat16()) and not torch.equal(weight.detach(), raw)
    assert torch.equal(ema.state_dict()["training"][0], raw)
    ema.restore_training_weights()
    assert torch.equal(weight.detach(), raw) and kept.dtype == torch.float32


def test_the_state_restores_average_and_weights():
    ema, weight = start(decay=0.5)
    move(ema, weight, [3.0, 5.0])
    saved = {
        k: [t.clone() for t in v] if isinstance(v, list) else v for k, v in ema.state_dict().items()
    }
    other, loaded = start(decay=0.5)
    loaded.data.fill_(99.0)  # what a checkpoint's weights would be: the average
    other.load_state_dict(saved)
    for callback, parameter in ((ema, weight), (other, loaded)):
        move(callback, parameter, [7.0])
    assert torch.equal(ema.state_dict()["average"][0], other.state_dict()["average"][0])
    other.load_state_dict(saved)
    assert torch.equal(loaded.detach(), torch.full((2,), 5.0))


def test_bytes_that_it_keeps():
    size = EMA().count_state([("a", (10, 20), torch.bfloat16), ("b", (5,), torch.float32)])
    assert size == (4 * 205, 4 * 205 + 2 * 200 + 4 * 5)


@pytest.mark.parametrize(("pipeline", "averageable"), [(object(), True), (None, False)])
def test_what_cannot_be_averaged_is_refused(pipeline, averageable):
    run = SimpleNamespace(pipeline=pipeline, method=SimpleNamespace(averageable=averageable))
    with pytest.raises(UserError, match="~callback.ema|federated") as caught:
        EMA().setup(run)
    assert "~callback.ema" in str(caught.value)
