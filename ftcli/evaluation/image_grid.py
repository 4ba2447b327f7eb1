"""Images that a diffusion model draws from captions, as a grid in the run's directory."""

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
    """Draws captions by deterministic DDIM and writes `images/<name>-<step>.png`.

    The first rows of the split, those the data begin with, are drawn from noise that depends on their
    number alone, so that grids of different steps and runs can be laid side by side. Above each drawing
    stands the image that the caption belongs to. With `prompts` these are drawn instead, and nothing
    stands above them.
    """

    split: str = "validation"  # whose captions are drawn: validation, test or train
    prompts: list[str] = field(default_factory=list)  # captions to draw in place of a split's
    count: int = 16  # captions of the split
    columns: int = 8  # images in a row of the grid
    steps: int = 50  # DDIM steps
    guidance: float = 1.0  # classifier-free guidance; 1 is none
    scale: int = 4  # pixels of the grid's file a pixel of an image
    name: str = "samples"  # how the files are called
    periodic: bool = False  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """No score; the grid is written where the run has a directory.

        Raises:
            UserError: the split does not exist, or there are not so many steps.
        """
        if run.dir is None:
            return {}
        batch = self._batch(run)
        with evaluation_mode(run) as model:
            drawn = to_bytes(draw(model, batch, self.steps, self.guidance))
        images = drawn if self.prompts else self._beside(batch["inputs"]["pixels"], drawn)
        folder = Path(run.dir.path) / "images"
        folder.mkdir(exist_ok=True)
        draw_grid(images, self.columns, scale=self.scale).save(
            folder / f"{self.name}-{run.step:06d}.png"
        )
        return {}

    def _batch(self, run: Any) -> dict[str, Any]:
        captions = run.data.prepare("train" if self.prompts else self.split, run.tokenizer)
        if not self.prompts:
            return captions.batch(list(range(min(self.count, len(captions)))))
        ids = captions.tokens(run.tokenizer, self.prompts)
        rows = list(range(len(ids)))
        return {"rows": rows, "inputs": {"input_ids": ids}, "empty": captions.empty[0]}

    def _beside(self, real: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """A row of real images, the row drawn for them, and so on."""
        blank = torch.full_like(real[:1], 255).expand(-len(real) % self.columns, -1, -1, -1)
        rows = [torch.cat([x, blank]).split(self.columns) for x in (real, drawn)]
        return torch.cat([part for pair in zip(*rows, strict=True) for part in pair])


def draw(model: Any, batch: dict[str, Any], steps: int, guidance: float = 1.0) -> torch.Tensor:
    """Pixels [B, 3, h, w] in [-1, 1] for the captions of a batch, from noise of its row numbers."""
    parts = unwrap_parts(model)
    shape = torch.Size(latent_shape(parts))
    noise = draw_noise(batch["rows"], shape, 1, (0, EVALUATION_STEP))[1].to(parts.device)
    score = noise_predictor(model, batch["inputs"]["input_ids"], batch["empty"], guidance)
    return parts.decode(Ddim.from_scheduler(parts.scheduler, steps).sample(noise, score))


def latent_shape(parts: Any) -> tuple[int, int, int]:
    """Channels, height and width that the denoiser was made for."""
    config = parts.part("denoiser").config
    return config.in_channels, config.sample_size, config.sample_size
