"""A diffusion model of a few thousand weights, made from the shipped shapes."""

from __future__ import annotations

import torch

from ftcli.models.ldm import LdmSource
from ftcli.models.parts import LatentDiffusion, Patches


def source(**options) -> LdmSource:
    """The shipped shape with new weights."""
    defaults = {"path": "asset:ldm_emoji", "tokenizer": "asset:llama_mini", "weights": "random"}
    return LdmSource(**(defaults | options))


def small(trains=("denoiser",), seed: int = 0, predicts: str = "epsilon") -> LatentDiffusion:
    """One level fewer channels than the shipped shape: seconds become milliseconds."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=4, in_channels=12, out_channels=12,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=2,
        cross_attention_dim=16, norm_num_groups=4,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=4096, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=8,
    )  # fmt: skip
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        prediction_type=predicts, clip_sample=False,
    )  # fmt: skip
    return LatentDiffusion(unet, CLIPTextModel(text), Patches(2), scheduler, trains).eval()


def batch(rows=(0, 1), size: int = 8) -> dict:
    """Random bytes and captions of these rows."""
    random = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (16, 3, size, size), generator=random, dtype=torch.uint8)
    ids = torch.randint(3, 4000, (16, 6), generator=random)
    chosen = list(rows)
    return {
        "inputs": {"pixels": pixels[chosen], "input_ids": ids[chosen]},
        "empty": torch.zeros(6, dtype=torch.int64), "indices": chosen, "num_supervised": len(chosen),
    }  # fmt: skip
