"""Forward process, predictions and DDIM against their formulas and against diffusers."""

from __future__ import annotations

import itertools

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.models.diffusion import (
    Ddim,
    add_noise,
    change_noise_level,
    implied_noise,
    noise_predictor,
    training_target,
)

from .small_ldm import batch, small


def test_noise_and_velocity_imply_each_other():
    x, e, a = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor(0.3)
    noisy = add_noise(x, e, a)
    assert torch.allclose(noisy, 0.3**0.5 * x + 0.7**0.5 * e)
    for kind in ("epsilon", "v_prediction"):
        recovered = implied_noise(kind, training_target(kind, x, e, a), noisy, a)
        assert torch.allclose(recovered, e, atol=1e-6)
    with pytest.raises(UserError, match="sample"):
        training_target("sample", x, e, a)


def test_samples_as_diffusers_does():
    from diffusers import DDIMScheduler

    model, ids = small(), batch()["inputs"]["input_ids"]
    theirs = DDIMScheduler.from_config(model.scheduler.config)
    theirs.set_timesteps(5)
    score = noise_predictor(model, ids)
    start = torch.randn(2, 12, 4, 4)
    with torch.no_grad():
        x = start
        for t in theirs.timesteps:
            x = theirs.step(score(x, int(t)), int(t), x).prev_sample
        ours = Ddim.from_scheduler(model.scheduler, 5).sample(start, score)
    assert torch.allclose(ours, x, atol=1e-4)


def test_stable_diffusions_timesteps_begin_at_one():
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(steps_offset=1, set_alpha_to_one=False)
    walk = Ddim.from_scheduler(scheduler, 50)
    scheduler.set_timesteps(50)
    assert list(walk.timesteps) == scheduler.timesteps.flip(0).tolist()
    assert walk.clean == float(scheduler.final_alpha_cumprod)


def test_a_step_to_where_one_is_changes_nothing():
    x, e = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.allclose(change_noise_level(x, e, 0.4, 0.4), x, atol=1e-6)


def test_inversion_comes_back_the_closer_the_more_steps():
    """With the optimal denoiser of normally distributed images, which is known."""
    scheduler = small().scheduler

    def score(x, t):
        a = scheduler.alphas_cumprod[t].double()
        return (1 - a).sqrt() * x / (0.25 * a + 1 - a)

    x = torch.randn(2, 12, 4, 4, dtype=torch.float64) / 2
    lost = []
    for steps in (10, 50, 250, 1000):
        walk = Ddim.from_scheduler(scheduler, steps)
        lost.append((walk.sample(walk.invert(x, score), score) - x).abs().max().item())
    assert all(after < before / 3 for before, after in itertools.pairwise(lost)), lost


def test_inversion_and_sampling_ask_at_the_same_timesteps():
    asked: list[int] = []

    def score(x, t):
        asked.append(t)
        return torch.zeros_like(x)

    walk = Ddim.from_scheduler(small().scheduler, 10)
    walk.sample(walk.invert(torch.ones(1, 1), score), score)
    assert asked[:10] == list(walk.timesteps) and asked[10:] == list(walk.timesteps)[::-1]


def test_guidance_of_one_is_the_caption_alone_and_of_zero_none():
    model, given = small(), batch()
    x, ids, empty = torch.randn(2, 12, 4, 4), given["inputs"]["input_ids"], given["empty"]
    with torch.no_grad():
        plain = noise_predictor(model, ids)(x, 500)
        nothing = noise_predictor(model, empty.expand_as(ids))(x, 500)
        three = noise_predictor(model, ids, empty, 3.0)(x, 500)
        assert torch.allclose(noise_predictor(model, ids, empty, 0.0)(x, 500), nothing, atol=1e-6)
    assert torch.allclose(three, nothing + 3 * (plain - nothing), atol=1e-5)


def test_more_steps_than_there_are_is_an_error():
    with pytest.raises(UserError, match="1001 steps"):
        Ddim.from_scheduler(small().scheduler, 1001)
