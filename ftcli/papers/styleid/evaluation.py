"""Evaluator of style transfer without training (StyleID, arXiv 2312.09008), which also writes a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ftcli.data.media.pictures import draw_grid, to_bytes
from ftcli.models.decoding import evaluation_mode
from ftcli.models.diffusion import Ddim, NoisePredictor, noise_predictor
from ftcli.models.parts import unwrap_parts
from ftcli.objectives.diffusion import pixels
from ftcli.papers.styleid import distances
from ftcli.papers.styleid.attention import Features, Taps, adain, pair_features, tap_attention

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class StyleTransfer:
    """Renders every content image in every style, by the frozen denoiser alone.

    Contents and styles are inverted by DDIM under the empty caption, and queries, keys and values of
    the selected self-attentions are recorded. The content's noise, with the style's channel statistics,
    is then denoised again while those layers attend to the style's keys and values, with a query
    mixed with the content's. Features are matched by timestep.
    """

    layers: list[str] = field(default_factory=lambda: ["up_blocks.2.*", "up_blocks.3.*"])
    gamma: float = 0.75  # share of the content's query
    tau: float = 1.5  # factor of the attention's logits: sharper
    adain: bool = True  # the noise gets the style's channel statistics
    inject: bool = True  # keys and values are the style's
    steps: int = 50  # DDIM steps each way
    contents: int = 5  # images of `split`
    styles: int = 4  # images of `style_split`
    split: str = "validation"  # split of the contents
    style_split: str = "test"  # split of the styles
    scale: int = 4  # pixels of the grid's file per pixel of an image
    name: str = "style_transfer"  # file name of the grid
    periodic: bool = False  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Run) -> dict[str, float]:
        """Return distances of results from contents and styles, means over all pairs; write the grid.

        `denoiser_images` is the number of images that the denoiser processed, over all calls.

        Raises:
            UserError: a split does not exist, or a pattern of `layers` matches nothing.
        """
        content, empty = _load_images(run, self.split, self.contents)
        style, _ = _load_images(run, self.style_split, self.styles)
        with evaluation_mode(run) as model:
            drawn, calls = self.transfer(model, content, style, empty)
        which = _list_pairs(content, style)
        left, right = (torch.tensor([p[side] for p in which]) for side in (0, 1))
        if run.dir is not None:
            self._write_grid(Path(run.dir.path), content, style, drawn)
        results, contents, styles = drawn.cpu(), content[left].cpu(), style[right].cpu()
        return {
            "content_distance": distances.content_distance(results, contents).mean().item(),
            "gram_distance": distances.gram_distance(results, styles).mean().item(),
            "color_distance": distances.color_distance(results, styles).mean().item(),
            "pixel_error": (results - contents).square().mean().item(),
            "denoiser_images": float(calls),
        }

    def transfer(
        self, model: Any, content: Tensor, style: Tensor, empty: Tensor
    ) -> tuple[Tensor, int]:
        """Render all contents in all styles, content by content.

        Args:
            content, style: pixels [C, 3, h, w] and [S, 3, h, w] in [-1, 1].
            empty: ids of the empty caption, [L].

        Returns:
            Pixels [C * S, 3, h, w], and the number of images that the denoiser processed.
        """
        parts, which = unwrap_parts(model), _list_pairs(content, style)
        walk = Ddim.from_scheduler(parts.scheduler, self.steps)
        with tap_attention(parts.part("denoiser"), self.layers) as taps:
            taps.gamma, taps.tau = self.gamma, self.tau
            count = _Count()

            def build_noise(images: int) -> NoisePredictor:
                ids = empty.expand(images, -1)
                return _track_calls(noise_predictor(model, ids), taps, count)

            def invert(images: Tensor) -> tuple[Tensor, Features]:
                features: Features = {}
                taps.record = features
                noise = walk.invert(parts.encode(images), build_noise(len(images)))
                taps.record = None
                return noise, features

            (start, queries), (colors, keys) = invert(content), invert(style)
            left, right = (torch.tensor([p[side] for p in which]) for side in (0, 1))
            start, colors = start[left], colors[right]
            if self.adain:
                start = adain(start, colors)
            if self.inject:
                taps.inject = pair_features(queries, keys, which)
            drawn = parts.decode(walk.sample(start, build_noise(len(which))))
        return drawn, count.images

    def _write_grid(self, folder: Path, content: Tensor, style: Tensor, drawn: Tensor) -> None:
        """Write the grid: styles in the first row, contents in the first column, pairs in the cells."""
        rows = [torch.cat([torch.ones_like(style[:1]), style])]
        for i, image in enumerate(content):
            rows.append(torch.cat([image[None], drawn[i * len(style) : (i + 1) * len(style)]]))
        (folder / "images").mkdir(exist_ok=True)
        picture = draw_grid(to_bytes(torch.cat(rows)), len(style) + 1, scale=self.scale)
        picture.save(folder / "images" / f"{self.name}.png")


@dataclass
class _Count:
    images: int = 0


def _track_calls(
    noise: NoisePredictor, taps: Taps, count: _Count
) -> Callable[[Tensor, int], Tensor]:
    """Return the noise function, which also sets the timestep of the taps and counts images."""

    def tracked_noise(latents: Tensor, time: int) -> Tensor:
        taps.time = time
        count.images += len(latents)
        return noise(latents, time)

    return tracked_noise


def _list_pairs(content: Tensor, style: Tensor) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(content)) for j in range(len(style))]


def _load_images(run: Run, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return pixels [count, 3, h, w] of rows drawn by the run's seed, and the ids of the empty caption."""
    prepared = run.data.prepare(split, run.tokenizer)
    order = np.random.default_rng(run.seed).permutation(len(prepared))
    batch = prepared.batch([int(row) for row in order[:count]])
    return pixels(batch, unwrap_parts(run.model).device), batch["empty"]
