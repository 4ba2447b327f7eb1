"""Denoising: predict the noise (or velocity) that was added to the latents of an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.models.diffusion import add_noise, training_target
from ftcli.models.parts import unwrap_parts
from ftcli.objectives.base import Losses, Objective

if TYPE_CHECKING:
    from ftcli.core.run import Run

EVALUATION_STEP = 1 << 31  # takes the place of the step in the random key of evaluations


@dataclass
class Diffusion(Objective):
    """Mean squared error of the prediction at a uniformly drawn timestep (DDPM, arXiv 2006.11239).

    Whether the model predicts noise or velocity is taken from its scheduler. Timestep, noise and caption
    dropout are a function of seed, step and row alone, so that a resumed run continues exactly, and
    micro-batches draw what the whole batch would. In evaluations they are a function of the row, so that
    every model and seed is scored with the same noise.
    """

    caption_dropout: float = 0.0  # share of captions left empty, for guidance (arXiv 2207.12598)
    _seed: int = field(default=0, init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.caption_dropout <= 1:
            raise UserError(
                f"caption_dropout={self.caption_dropout} is not between 0 and 1.",
                where="objective.caption_dropout",
                fix="objective.caption_dropout=0.1",
            )

    def setup(self, run: Run) -> None:
        """Store the run's seed."""
        self._seed = run.seed

    def before_step(self, state: State) -> None:
        """Store the step."""
        self._step = state.step

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Losses:
        """Return losses [B], one an image."""
        parts = unwrap_parts(model)
        latents = parts.encode(pixels(batch, parts.device))
        key = (self._seed, self._step) if model.training else (0, EVALUATION_STEP)
        times, noise, dropped = draw_noise(
            batch["indices"], latents.shape[1:], len(parts.alphas), key
        )
        ids = batch["inputs"]["input_ids"]
        if model.training:
            empty = dropped < self.caption_dropout
            ids = torch.where(empty[:, None], batch["empty"], ids)
        values = prediction_errors(model, latents, ids, times, noise.to(latents))
        return Losses(values, torch.arange(len(values), device=values.device))

    def sizes(self, batch: dict[str, Any]) -> tuple[int, int]:
        """Return the number of images twice: each is one value and one sequence."""
        return len(batch["indices"]), len(batch["indices"])


def prediction_errors(
    model: nn.Module, latents: Tensor, ids: Tensor, times: Tensor, noise: Tensor
) -> Tensor:
    """Return the mean squared error [B] of the prediction for noised latents.

    Args:
        latents: [B, c, h, w], without noise.
        ids: captions [B, L].
        times: timesteps [B], int64, on the CPU as the scheduler's table is.
        noise: noise of the shape of the latents.
    """
    parts = unwrap_parts(model)
    alpha = parts.alphas[times].to(latents).view(-1, 1, 1, 1)
    noisy = add_noise(latents, noise, alpha)
    prediction = model(noisy, times.to(latents.device), ids.to(latents.device))
    wanted = training_target(parts.predicts, latents, noise, alpha)
    return (prediction.float() - wanted.float()).square().flatten(1).mean(1)


def pixels(batch: dict[str, Any], device: torch.device) -> Tensor:
    """Return images [B, 3, h, w] in [-1, 1] from bytes."""
    return batch["inputs"]["pixels"].to(device, non_blocking=True).float() / 127.5 - 1


def draw_noise(
    rows: list[int], shape: torch.Size, steps: int, key: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return timesteps [B], noise [B, *shape] and uniform numbers [B], with one generator a row.

    Args:
        rows: numbers of the rows.
        shape: shape of the noise of one row.
        steps: timesteps are below this.
        key: seeds the generators together with the row's number.
    """
    generators = [np.random.default_rng([*key, row]) for row in rows]
    times = torch.tensor([int(g.integers(steps)) for g in generators])
    uniform = torch.tensor([g.random() for g in generators])
    noise = np.stack([g.standard_normal(tuple(shape), dtype=np.float32) for g in generators])
    return times, torch.from_numpy(noise), uniform
