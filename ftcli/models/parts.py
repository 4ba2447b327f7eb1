"""The parts of a latent diffusion model under fixed names, as one torch module."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

DENOISER, TEXT, AUTOENCODER = NAMES = ("denoiser", "text_encoder", "autoencoder")
#: Part -> its folder in the layout of diffusers.
FOLDERS = {DENOISER: "unet", TEXT: "text_encoder", AUTOENCODER: "vae"}


class Patches(nn.Module):
    """An autoencoder without weights: a square of pixels becomes the channels of one position.

    Args:
        factor: edge of the square in pixels; 1 for the identity.
    """

    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        self.factor = factor

    def to_latents(self, pixels: Tensor) -> Tensor:
        """Rearrange [B, c, h, w] to [B, c * factor^2, h / factor, w / factor], exactly invertible."""
        return pixel_unshuffle(pixels, self.factor)

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Rearrange latents back to pixels [B, c, h, w]."""
        return pixel_shuffle(latents, self.factor)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the configuration of the autoencoder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = {"_class_name": type(self).__name__, "factor": self.factor}
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")


@dataclass
class PartsConfig:
    """Sizes under the names of transformers; there is no vocabulary."""

    hidden_size: int
    num_labels: int = 1

    def get_text_config(self) -> PartsConfig:
        """Return the configuration, as multimodal ones return that of their text model."""
        return self


class LatentDiffusion(nn.Module):
    """Denoiser, text encoder and autoencoder, with the noise schedule they were made for.

    Parts that are not named in `trains` are no submodules, so that no pattern of parameter names, adapter,
    optimizer or checkpoint reaches them; they stay in evaluation mode and follow `to`.

    Args:
        denoiser: a UNet2DConditionModel of diffusers.
        text_encoder: a text model of transformers; its last hidden states are the condition.
        autoencoder: an AutoencoderKL of diffusers, or `Patches`.
        scheduler: a scheduler of diffusers; its `alphas_cumprod` and `prediction_type` are used.
        trains: names of the parts that a method may change.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        text_encoder: nn.Module,
        autoencoder: nn.Module,
        scheduler: Any,
        trains: Iterable[str] = (DENOISER,),
    ) -> None:
        super().__init__()
        self.scheduler, self.outside = scheduler, {}
        parts = dict(zip(NAMES, (denoiser, text_encoder, autoencoder), strict=True))
        for name, part in parts.items():
            if name in trains:
                self.add_module(name, part)
            else:
                self.outside[name] = part.requires_grad_(False).eval()

    def part(self, name: str) -> Any:
        """Return the part of this name, trained or not."""
        return self.outside[name] if name in self.outside else getattr(self, name)

    def forward(self, latents: Tensor, timesteps: Tensor, input_ids: Tensor) -> Tensor:
        """Return the denoiser's prediction for noisy latents.

        Args:
            latents: [B, c, h, w].
            timesteps: [B], int64.
            input_ids: captions, [B, L].

        Returns:
            [B, c, h, w]: noise or velocity, as `prediction_type` of the scheduler says.
        """
        return self.denoise(latents, timesteps, self.condition(input_ids))

    def condition(self, input_ids: Tensor) -> Tensor:
        """Return the hidden states [B, L, d] of captions [B, L]."""
        return self.part(TEXT)(input_ids=input_ids).last_hidden_state

    def denoise(self, latents: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Return the prediction [B, c, h, w] under a condition [B, L, d]."""
        return self.part(DENOISER)(
            latents, timesteps, encoder_hidden_states=condition, return_dict=False
        )[0]

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels in [-1, 1] as latents: the mode of the posterior, scaled as diffusers does."""
        vae = self.part(AUTOENCODER)
        if isinstance(vae, Patches):
            return vae.to_latents(pixels)
        return vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to pixels, clamped to [-1, 1]."""
        vae = self.part(AUTOENCODER)
        if isinstance(vae, Patches):
            pixels = vae.to_pixels(latents)
        else:
            pixels = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return pixels.clamp(-1, 1)

    @property
    def alphas(self) -> Tensor:
        """Cumulative products of 1 - beta, [T] on the CPU."""
        return self.scheduler.alphas_cumprod

    @property
    def predicts(self) -> str:
        """`epsilon` or `v_prediction`."""
        return self.scheduler.config.prediction_type

    @property
    def config(self) -> PartsConfig:
        """The sizes that planning reads."""
        return PartsConfig(hidden_size=self.part(DENOISER).config.block_out_channels[-1])

    @property
    def device(self) -> torch.device:
        """The device of the denoiser."""
        return next(self.part(DENOISER).parameters()).device

    def activation_checkpointing_enable(self, kwargs: dict[str, Any] | None = None) -> None:
        """Turn on gradient checkpointing of the denoiser's blocks."""
        self.part(DENOISER).enable_gradient_checkpointing()

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write a folder in the layout of diffusers, but for the tokenizer, which the run writes."""
        for name, place in FOLDERS.items():
            self.part(name).save_pretrained(Path(folder) / place)
        self.scheduler.save_pretrained(Path(folder) / "scheduler")
        classes = {place: self.part(name) for name, place in FOLDERS.items()}
        classes["scheduler"] = self.scheduler
        index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
        for place, part in classes.items():
            kind = type(part)
            library = (
                kind.__module__ if isinstance(part, Patches) else kind.__module__.split(".")[0]
            )
            index[place] = [library, kind.__name__]
        text = json.dumps(index, indent=2)
        (Path(folder) / "model_index.json").write_text(text, encoding="utf-8")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LatentDiffusion:
        """Apply `fn` also to the parts that are no submodules."""
        for part in self.outside.values():
            part._apply(fn)
        return super()._apply(fn, recurse)


def unwrap_parts(model: Any) -> LatentDiffusion:
    """Return the diffusion model under the wrappers of data parallelism and adapters."""
    model = getattr(model, "module", model)
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if callable(unwrap) else model
