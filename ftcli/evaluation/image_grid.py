"""Evaluator: images sampled from captions by a diffusion model, as a grid in the run's directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ftcli.data.media.pictures import draw_grid, to_bytes
from ftcli.models.decoding import evaluation_mode
from ftcli.models.diffusion import Ddim, noise_predictor
from ftcli.models.parts import unwrap_parts
from ftcli.objectives.diffusion import EVALUATION_STEP, draw_noise


@dataclass
class ImageGrid:
    """Samples an image for each caption by deterministic DDIM and writes `images/<name>-<step>.png`.

    The captions are those of the first rows of the split. The noise depends on the row number alone, so
    that grids of different steps and runs can be compared. Above each sample is the real image of the
    caption. With `prompts` these are the captions, and there are no real images.
    """

    split: str = "validation"  # split of the captions: validation, test or train
    prompts: list[str] = field(
        default_factory=list
    )  # captions to use in place of those of the split
    count: int = 16  # number of captions of the split
    columns: int = 8  # images in a row of the grid
    steps: int = 50  # DDIM steps
    guidance: float = 1.0  # classifier-free guidance; 1 is none
    scale: int = 4  # pixels of the file per pixel of an image
    name: str = "samples"  # prefix of the file names
    periodic: bool = False  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """Write the grid where the run has a directory; return no score.

        Raises:
            UserError: the split does not exist, or the schedule has fewer than `steps` timesteps.
        """
        if run.dir is None:
            return {}
        batch = self._batch(run)
        with evaluation_mode(run) as model:
            drawn = to_bytes(draw(model, batch, self.steps, self.guidance))
        images = drawn if self.prompts else self._interleave(batch["inputs"]["pixels"], drawn)
        folder = Path(run.dir.path) / "images"
        folder.mkdir(exist_ok=True)
        draw_grid(images, self.columns, scale=self.scale).save(
            folder / f"{self.name}-{run.evaluated_step:06d}.png"
        )
        return {}

    def _batch(self, run: Any) -> dict[str, Any]:
        captions = run.data.prepare("train" if self.prompts else self.split, run.tokenizer)
        if not self.prompts:
            return captions.batch(list(range(min(self.count, len(captions)))))
        ids = captions.tokens(run.tokenizer, self.prompts)
        rows = list(range(len(ids)))
        return {"indices": rows, "inputs": {"input_ids": ids}, "empty": captions.empty[0]}

    def _interleave(self, real: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Alternate rows of real images and rows of their samples."""
        blank = torch.full_like(real[:1], 255).expand(-len(real) % self.columns, -1, -1, -1)
        rows = [torch.cat([x, blank]).split(self.columns) for x in (real, drawn)]
        return torch.cat([part for pair in zip(*rows, strict=True) for part in pair])


def draw(model: Any, batch: dict[str, Any], steps: int, guidance: float = 1.0) -> torch.Tensor:
    """Sample pixels [B, 3, h, w] in [-1, 1] for the captions of a batch, from noise of its row numbers."""
    parts = unwrap_parts(model)
    shape = torch.Size(latent_shape(parts))
    noise = draw_noise(batch["indices"], shape, 1, (0, EVALUATION_STEP))[1].to(parts.device)
    score = noise_predictor(model, batch["inputs"]["input_ids"], batch["empty"], guidance)
    return parts.decode(Ddim.from_scheduler(parts.scheduler, steps).sample(noise, score))


def latent_shape(parts: Any) -> tuple[int, int, int]:
    """Return channels, height and width of the latents that the denoiser expects."""
    config = parts.part("denoiser").config
    return config.in_channels, config.sample_size, config.sample_size
