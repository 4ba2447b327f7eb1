"""Diffusion: the forward process, targets of a denoiser, deterministic DDIM sampling and inversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftcli.core.errors import UserError

#: Latents [B, ...] and a timestep -> the noise in them.
NoisePredictor = Callable[[Tensor, int], Tensor]


def add_noise(latents: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """Return sqrt(a) x + sqrt(1 - a) e (DDPM, arXiv 2006.11239, equation 4).

    Args:
        alpha: cumulative product a of 1 - beta, broadcast over the latents.
    """
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def training_target(predicts: str, latents: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """Return the denoiser's target: the noise e, or the velocity sqrt(a) e - sqrt(1 - a) x.

    Velocity: arXiv 2202.00512, appendix D.

    Raises:
        UserError: the model predicts something else.
    """
    if predicts == "epsilon":
        return noise
    if predicts == "v_prediction":
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    raise UserError(
        f"the model predicts {predicts!r}; known are epsilon and v_prediction.", where="model.path"
    )


def implied_noise(predicts: str, prediction: Tensor, noisy: Tensor, alpha: Tensor) -> Tensor:
    """Return the noise that a prediction for noisy latents implies."""
    if predicts == "epsilon":
        return prediction
    return alpha.sqrt() * prediction + (1 - alpha).sqrt() * noisy


@dataclass(frozen=True)
class Ddim:
    """Deterministic DDIM (arXiv 2010.02502, eta = 0) over some of a model's timesteps.

    Attributes:
        timesteps: ascending.
        alphas: cumulative product at each of them.
        clean: cumulative product that stands for the image itself.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    clean: float = 1.0

    @classmethod
    def from_scheduler(cls, scheduler: Any, steps: int) -> Ddim:
        """Take evenly spaced timesteps of a scheduler of diffusers, as its `leading` spacing.

        Raises:
            UserError: the scheduler has fewer timesteps.
        """
        alphas, config = scheduler.alphas_cumprod, scheduler.config
        if not 1 <= steps <= len(alphas):
            raise UserError(f"{steps} steps cannot be taken of {len(alphas)}.", where="eval")
        offset = config.get("steps_offset", 0)
        every = len(alphas) // steps
        times = tuple(min(i * every + offset, len(alphas) - 1) for i in range(steps))
        clean = 1.0 if config.get("set_alpha_to_one", True) else float(alphas[0])
        return cls(times, tuple(float(alphas[t]) for t in times), clean)

    def sample(self, latents: Tensor, noise: NoisePredictor) -> Tensor:
        """Denoise latents to an image; at level i the noise is predicted at timestep i."""
        levels = (self.clean, *self.alphas)
        for i in reversed(range(len(self.timesteps))):
            latents = change_noise_level(
                latents, noise(latents, self.timesteps[i]), levels[i + 1], levels[i]
            )
        return latents

    def invert(self, latents: Tensor, noise: NoisePredictor) -> Tensor:
        """Return the noise that gives an image, with one prediction a step.

        The latents of level i - 1 are passed as timestep i, whose noise they approximate; so sampling
        returns the image only in the limit of many steps.
        """
        levels = (self.clean, *self.alphas)
        for i, time in enumerate(self.timesteps):
            latents = change_noise_level(latents, noise(latents, time), levels[i], levels[i + 1])
        return latents


def change_noise_level(latents: Tensor, noise: Tensor, here: float, there: float) -> Tensor:
    """Compute the image x0 = (x - sqrt(1 - a) e) / sqrt(a) and add the noise of another level to it."""
    clean = (latents - (1 - here) ** 0.5 * noise) / here**0.5
    return there**0.5 * clean + (1 - there) ** 0.5 * noise


def noise_predictor(
    model: Any, input_ids: Tensor, empty: Tensor | None = None, guidance: float = 1.0
) -> NoisePredictor:
    """Return the function that predicts the noise in latents under captions.

    Args:
        model: a `LatentDiffusion`, under wrappers or not.
        input_ids: captions [B, L].
        empty: the empty caption [L]; needed with guidance only.
        guidance: 1 is the captions' own prediction; above, classifier-free guidance
            (arXiv 2207.12598): e_empty + guidance * (e_caption - e_empty).
    """
    from ftcli.models.parts import unwrap_parts

    parts = unwrap_parts(model)
    alphas, predicts, device = parts.alphas, parts.predicts, parts.device
    condition = parts.condition(input_ids.to(device))
    unconditional = None
    if guidance != 1.0 and empty is not None:
        unconditional = parts.condition(empty.to(device).expand_as(input_ids))

    def predict(latents: Tensor, time: int, caption: Tensor) -> Tensor:
        times = torch.full((len(latents),), time, device=device)
        prediction = parts.denoise(latents, times, caption)
        return implied_noise(predicts, prediction, latents, alphas[time].to(latents))

    def noise(latents: Tensor, time: int) -> Tensor:
        conditional = predict(latents, time, condition)
        if unconditional is None:
            return conditional
        without = predict(latents, time, unconditional)
        return without + guidance * (conditional - without)

    return noise
