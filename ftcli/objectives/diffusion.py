"""Denoising: predict the noise (or velocity) that was mixed into the latents of an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.models.diffusion import noised, target
from ftcli.models.parts import bare
from ftcli.objectives.base import Losses, Objective

if TYPE_CHECKING:
    from ftcli.core.run import Run

EVALUATION_STEP = 1 << 31  # stands for the step where nothing is trained


@dataclass
class Diffusion(Objective):
    """Mean squared error of an image's prediction at a timestep drawn evenly (DDPM, arXiv 2006.11239).

    What the model predicts, noise or velocity, is what its scheduler says. Timestep, noise and whether
    the caption is dropped are a function of seed, step and row alone, so that a run goes on after a
    crash as it would have, and micro-batches see what the whole batch would. Outside of training they
    are a function of the row: every model and every seed is judged by the same noise.
    """

    caption_dropout: float = 0.0  # share of captions left empty, for guidance (arXiv 2207.12598)
    _seed: int = field(default=0, init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.caption_dropout <= 1:
            raise UserError(
                f"{self.caption_dropout} is no share of the captions.",
                where="objective.caption_dropout",
                fix="objective.caption_dropout=0.1",
            )

    def setup(self, run: Run) -> None:
        """Remember the seed."""
        self._seed = run.seed

    def before_step(self, state: State) -> None:
        """Remember the step."""
        self._step = state.step

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Losses [B], one an image."""
        parts = bare(model)
        latents = parts.encode(pixels(batch, parts.device))
        key = (self._seed, self._step) if model.training else (0, EVALUATION_STEP)
        times, noise, dropped = draw_noise(batch["rows"], latents.shape[1:], len(parts.alphas), key)
        ids = batch["inputs"]["input_ids"]
        if model.training:
            empty = dropped < self.caption_dropout
            ids = torch.where(empty[:, None], batch["empty"], ids)
        values = prediction_errors(model, latents, ids, times, noise.to(latents))
        return Losses(values, torch.arange(len(values), device=values.device))

    def sizes(self, batch: dict[str, Any]) -> tuple[int, int]:
        """One loss an image."""
        return len(batch["rows"]), len(batch["rows"])


def prediction_errors(
    model: nn.Module, latents: Tensor, ids: Tensor, times: Tensor, noise: Tensor
) -> Tensor:
    """Mean squared error [B] of the prediction for latents with this noise at these timesteps.

    Args:
        ids: captions [B, L].
        times: [B], int64, on the CPU as the scheduler's table is.
    """
    parts = bare(model)
    alpha = parts.alphas[times].to(latents).view(-1, 1, 1, 1)
    noisy = noised(latents, noise, alpha)
    prediction = model(noisy, times.to(latents.device), ids.to(latents.device))
    wanted = target(parts.predicts, latents, noise, alpha)
    return (prediction.float() - wanted.float()).square().flatten(1).mean(1)


def pixels(batch: dict[str, Any], device: torch.device) -> Tensor:
    """Images [B, 3, h, w] in [-1, 1] of bytes."""
    return batch["inputs"]["pixels"].to(device, non_blocking=True).float() / 127.5 - 1


def draw_noise(
    rows: list[int], shape: torch.Size, steps: int, key: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps [B], noise [B, *shape] and uniform numbers [B], each row's from a generator of its own.

    Args:
        steps: timesteps are drawn below this.
        key: with the row's number it decides everything.
    """
    generators = [np.random.default_rng([*key, row]) for row in rows]
    times = torch.tensor([int(g.integers(steps)) for g in generators])
    uniform = torch.tensor([g.random() for g in generators])
    noise = np.stack([g.standard_normal(tuple(shape), dtype=np.float32) for g in generators])
    return times, torch.from_numpy(noise), uniform
