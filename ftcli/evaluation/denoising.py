"""Evaluator: denoising error on held-out images, at fixed timesteps with fixed noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ftcli.core.errors import UserError
from ftcli.models.decoding import evaluation_mode
from ftcli.models.parts import unwrap_parts
from ftcli.objectives.diffusion import EVALUATION_STEP, draw_noise, pixels, prediction_errors


@dataclass
class Denoising:
    """Mean squared error of the prediction, averaged over evenly spaced timesteps.

    Every image is evaluated once at each of `levels` timesteps, the midpoints of as many equal parts of
    the schedule, with noise that depends on row and timestep alone. So two models, or one model before and
    after training, are compared on the same inputs.
    """

    split: str = "validation"  # which rows: validation, test or train
    name: str = "loss"  # of the score
    levels: int = 4  # timesteps at which each image is evaluated
    batch_size: int | None = None  # images a forward pass; null: the trainer's
    limit: int | None = None  # stop after this many images; null reads all
    periodic: bool = True  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """Return the mean over images and timesteps.

        Raises:
            UserError: the split does not exist, or the schedule has fewer than `levels` timesteps.
        """
        size, total, rows = self.batch_size or run.trainer.batch_size, 0.0, 0
        loader = run.data.loader(self.split, run.tokenizer, batch_size=size, seed=0, shuffle=False)
        with evaluation_mode(run) as model:
            for batch in loader:
                total += self._sum(model, batch)
                rows += len(batch["indices"])
                if self.limit is not None and rows >= self.limit:
                    break
        return {self.name: total / (rows * self.levels)}

    def _sum(self, model: Any, batch: dict[str, Any]) -> float:
        """Return the squared errors of a batch, summed over images and timesteps."""
        parts = unwrap_parts(model)
        latents, count = parts.encode(pixels(batch, parts.device)), len(parts.alphas)
        if not 1 <= self.levels <= count:
            raise UserError(f"{self.levels} of {count} timesteps cannot be chosen.", where="eval")
        total = 0.0
        for level in range(self.levels):
            time = (2 * level + 1) * count // (2 * self.levels)
            key = (0, EVALUATION_STEP, time)
            noise = draw_noise(batch["indices"], latents.shape[1:], count, key)[1].to(latents)
            times = torch.full((len(latents),), time)
            squared_errors = prediction_errors(
                model, latents, batch["inputs"]["input_ids"], times, noise
            )
            total += float(squared_errors.double().sum())
        return total
