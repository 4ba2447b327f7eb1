"""Style transfer without training (StyleID, arXiv 2312.09008), judged and shown as a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftcli.data.media.pictures import draw_grid, to_bytes
from ftcli.models.decoding import judging
from ftcli.models.diffusion import Ddim, Noise, denoiser
from ftcli.models.parts import bare
from ftcli.objectives.diffusion import pixels
from ftcli.papers.styleid import distances
from ftcli.papers.styleid.attention import Features, Taps, adain, pairs, tapped


@dataclass
class StyleTransfer:
    """Draws every content image in every style, by the frozen denoiser alone.

    Contents and styles are inverted by DDIM under the empty caption, and queries, keys and values of
    the chosen self-attentions are recorded. The content's noise, with the style's channel statistics,
    is then denoised again while those layers attend to the style's keys and values, with a query
    that stays close to the content's. Features are matched by timestep.
    """

    layers: list[str] = field(default_factory=lambda: ["up_blocks.2.*", "up_blocks.3.*"])
    gamma: float = 0.75  # share of the content's query
    tau: float = 1.5  # factor of the attention's logits: sharper
    adain: bool = True  # the noise gets the style's channel statistics
    inject: bool = True  # keys and values are the style's
    steps: int = 50  # DDIM steps each way
    contents: int = 5  # images of `split`
    styles: int = 4  # images of `style_split`
    split: str = "validation"  # where contents come from
    style_split: str = "test"  # where styles come from
    scale: int = 4  # pixels of the grid's file a pixel of an image
    name: str = "style_transfer"  # how the grid is called
    periodic: bool = False  # also at trainer.eval_every, not only before and after training

    def __call__(self, run: Any) -> dict[str, float]:
        """Distances of results from contents and styles, means over all pairs; the grid is written.

        `denoiser_images` is how often the denoiser saw an image.

        Raises:
            UserError: a split does not exist, or a pattern of `layers` matches nothing.
        """
        content, empty = _images(run, self.split, self.contents)
        style, _ = _images(run, self.style_split, self.styles)
        with judging(run) as model:
            drawn, calls = self.transfer(model, content, style, empty)
        which = _all_pairs(content, style)
        left, right = (torch.tensor([p[side] for p in which]) for side in (0, 1))
        if run.dir is not None:
            self._write(Path(run.dir.path), content, style, drawn)
        found, parts = drawn.cpu(), (content[left].cpu(), style[right].cpu())
        return {
            "content_distance": distances.content_distance(found, parts[0]).mean().item(),
            "gram_distance": distances.gram_distance(found, parts[1]).mean().item(),
            "color_distance": distances.color_distance(found, parts[1]).mean().item(),
            "pixel_error": (found - parts[0]).square().mean().item(),
            "denoiser_images": float(calls),
        }

    def transfer(
        self, model: Any, content: Tensor, style: Tensor, empty: Tensor
    ) -> tuple[Tensor, int]:
        """All contents in all styles, content by content, and how often an image was denoised.

        Args:
            content, style: pixels [C, 3, h, w] and [S, 3, h, w] in [-1, 1].
            empty: ids of the empty caption, [L].

        Returns:
            Pixels [C * S, 3, h, w].
        """
        parts, which = bare(model), _all_pairs(content, style)
        walk = Ddim.of(parts.scheduler, self.steps)
        with tapped(parts.part("denoiser"), self.layers) as taps:
            taps.gamma, taps.tau = self.gamma, self.tau
            count = _Count()

            def under(images: int) -> Noise:
                ids = empty.expand(images, -1)
                return _timed(denoiser(model, ids), taps, count)

            def inverted(images: Tensor) -> tuple[Tensor, Features]:
                features: Features = {}
                taps.record = features
                noise = walk.invert(parts.encode(images), under(len(images)))
                taps.record = None
                return noise, features

            (start, queries), (colors, keys) = inverted(content), inverted(style)
            left, right = (torch.tensor([p[side] for p in which]) for side in (0, 1))
            start, colors = start[left], colors[right]
            if self.adain:
                start = adain(start, colors)
            if self.inject:
                taps.inject = pairs(queries, keys, which)
            drawn = parts.decode(walk.sample(start, under(len(which))))
        return drawn, count.images

    def _write(self, folder: Path, content: Tensor, style: Tensor, drawn: Tensor) -> None:
        """Styles above, contents on the left, each pair where they meet."""
        rows = [torch.cat([torch.ones_like(style[:1]), style])]
        for i, image in enumerate(content):
            rows.append(torch.cat([image[None], drawn[i * len(style) : (i + 1) * len(style)]]))
        (folder / "images").mkdir(exist_ok=True)
        picture = draw_grid(to_bytes(torch.cat(rows)), len(style) + 1, scale=self.scale)
        picture.save(folder / "images" / f"{self.name}.png")


@dataclass
class _Count:
    images: int = 0


def _timed(noise: Noise, taps: Taps, count: _Count) -> Callable[[Tensor, int], Tensor]:
    """The same noise; taps are told the timestep before, and images are counted."""

    def told(latents: Tensor, time: int) -> Tensor:
        taps.time = time
        count.images += len(latents)
        return noise(latents, time)

    return told


def _all_pairs(content: Tensor, style: Tensor) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(content)) for j in range(len(style))]


def _images(run: Any, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Pixels [count, 3, h, w] of rows that the run's seed draws, and the empty caption."""
    prepared = run.data.prepare(split, run.tokenizer)
    order = np.random.default_rng(run.seed).permutation(len(prepared))
    batch = prepared.batch([int(row) for row in order[:count]])
    return pixels(batch, bare(run.model).device), batch["empty"]
