"""A small image task and a small ViT pretrained on it, for measures of papers on vision.

A glyph is a smooth random pattern, one per class; its images are shifted, scaled and noisy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SIDE, CLASSES = 16, 8
BATCH, NOISE, SHIFT = 64, 0.6, 2
ROWS = 512  # held-out images


@dataclass(frozen=True)
class Glyphs:
    """The classes of one alphabet, drawn from a seed; `negative` inverts and transposes the images."""

    alphabet: int
    negative: bool = False

    def draw(self, count: int, seed: int) -> tuple[Any, Any]:
        """Return images [count, 1, SIDE, SIDE] and their classes [count]."""
        import torch
        from torch.nn.functional import interpolate

        patterns = torch.Generator().manual_seed(self.alphabet)
        coarse = torch.randn(CLASSES, 1, 5, 5, generator=patterns)
        glyphs = interpolate(coarse, SIDE, mode="bicubic")
        random = torch.Generator().manual_seed(seed)
        labels = torch.randint(CLASSES, (count,), generator=random)
        shifts = torch.randint(-SHIFT, SHIFT + 1, (count, 2), generator=random).tolist()
        moved = [
            glyphs[k].roll(tuple(s), (1, 2))
            for k, s in zip(labels.tolist(), shifts, strict=True)
        ]  # fmt: skip
        images = torch.stack(moved) * (0.5 + torch.rand(count, 1, 1, 1, generator=random))
        images = images + NOISE * torch.randn(images.shape, generator=random)
        return (-images.mT if self.negative else images), labels


def build_vit(seed: int) -> Any:
    """Return an untrained ViT of 20 thousand parameters with a linear classifier."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    size: dict[str, Any] = {"image_size": SIDE, "patch_size": 4, "num_channels": 1}
    size |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = ViTConfig(**size, num_attention_heads=4)
    config.num_labels = CLASSES
    return ViTForImageClassification(config)


def fit_model(model: Any, task: Glyphs, lr: float, steps: int, seed: int) -> Any:
    """Train the parameters that require a gradient with AdamW and a rate that falls to zero; returns the model."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    images, labels = task.draw(BATCH * steps, seed)
    model.train()
    for step in range(steps):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        model(pixel_values=images[rows], labels=labels[rows]).loss.backward()
        optimizer.step()
        falling.step()
    return model.eval()


def evaluate_model(model: Any, task: Glyphs) -> tuple[float, float]:
    """Return loss and accuracy on held-out images."""
    import torch

    images, labels = task.draw(ROWS, seed=10**6)
    with torch.no_grad():
        output = model(pixel_values=images, labels=labels)
    return output.loss.item(), (output.logits.argmax(-1) == labels).float().mean().item()
