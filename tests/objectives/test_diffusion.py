"""The denoising objective: its formula, and that its randomness belongs to rows, not to batches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.objectives.diffusion import Diffusion, draw_noise, prediction_errors

from ..models.small_ldm import batch, small


def losses(objective: Diffusion, model, images) -> torch.Tensor:
    with torch.no_grad():
        return objective(model, images).values


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_values_are_mean_squared_errors_of_the_prediction(predicts):
    model, images = small(predicts=predicts).train(), batch()
    objective = Diffusion()
    objective.before_step(SimpleNamespace(step=3))
    values = losses(objective, model, images)
    times, noise, _ = draw_noise([0, 1], torch.Size((12, 4, 4)), 1000, (0, 3))
    x = model.encode(images["inputs"]["pixels"].float() / 127.5 - 1)
    for i in range(2):
        a = model.alphas[times[i]]
        noisy = a.sqrt() * x[i] + (1 - a).sqrt() * noise[i]
        wanted = noise[i] if predicts == "epsilon" else a.sqrt() * noise[i] - (1 - a).sqrt() * x[i]
        with torch.no_grad():
            prediction = model(
                noisy[None], times[i : i + 1], images["inputs"]["input_ids"][i : i + 1]
            )[0]
        assert values[i].item() == pytest.approx(
            (prediction - wanted).square().mean().item(), rel=1e-4
        )


def test_a_row_sees_the_same_noise_in_every_batch():
    model, objective = small().train(), Diffusion(caption_dropout=0.5)
    objective.before_step(SimpleNamespace(step=7))
    whole = losses(objective, model, batch((0, 1, 2, 3)))
    parts = [losses(objective, model, batch(rows)) for rows in ((0, 1), (2, 3))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)


def test_steps_and_seeds_differ_in_training_and_not_in_judging():
    model, images = small(), batch()
    values = []
    for mode in (True, False):
        for seed, step in ((0, 0), (0, 1), (1, 0)):
            objective = Diffusion()
            objective.setup(SimpleNamespace(seed=seed))
            objective.before_step(SimpleNamespace(step=step))
            values.append(losses(objective, model.train(mode), images))
    assert not torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert torch.equal(values[3], values[4]) and torch.equal(values[3], values[5])


def test_all_captions_dropped_is_the_empty_caption():
    model, images = small().train(), batch()
    emptied = images | {"inputs": images["inputs"] | {"input_ids": images["empty"].expand(2, -1)}}
    assert torch.equal(
        losses(Diffusion(caption_dropout=1.0), model, images), losses(Diffusion(), model, emptied)
    )


def test_timesteps_cover_the_schedule_evenly():
    times, noise, uniform = draw_noise(list(range(4000)), torch.Size((1,)), 1000, (0, 0))
    assert times.min() >= 0 and times.max() <= 999
    assert abs(times.float().mean().item() - 499.5) < 15  # 3 standard errors
    assert abs(noise.std().item() - 1) < 0.04 and abs((uniform < 0.1).float().mean() - 0.1) < 0.015


def test_gradients_reach_the_denoiser_and_not_the_frozen_parts():
    model, images = small().train(), batch()
    Diffusion()(model, images).values.sum().backward()
    assert all(p.grad is None for p in model.part("text_encoder").parameters())
    assert any(p.grad is not None for p in model.part("denoiser").parameters())
    x = torch.randn(2, 12, 4, 4)
    values = prediction_errors(
        model, x, images["inputs"]["input_ids"], torch.tensor([0, 999]), torch.randn_like(x)
    )
    assert values.shape == (2,)


def test_a_share_above_one_is_refused():
    with pytest.raises(UserError, match="not between 0 and 1"):
        Diffusion(caption_dropout=1.5)
