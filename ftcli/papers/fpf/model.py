"""ResNets of basic blocks with new weights, and a stem for images of 32 x 32 pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, ResNetConfig

from ftcli.core.errors import UserError
from ftcli.models.classifier import ClassifierSource


@dataclass
class ResNetSource(ClassifierSource):
    """A ResNet of basic blocks (He et al. 2015, arXiv 1512.03385) with weights drawn from torch's generator.

    With `stem=small` the first convolution is 3 x 3 with stride 1 and no pooling follows, as
    continual learning on CIFAR has it. transformers' configuration cannot say this, so only ftcli
    loads such a model again; `stem=imagenet` (7 x 7, stride 2, pooling) is transformers' own.
    """

    weights: Literal["pretrained", "random"] = "random"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "eager"  # it has none to choose
    widths: list[int] = field(default_factory=lambda: [64, 128, 256, 512])  # channels of each stage
    depths: list[int] = field(default_factory=lambda: [2, 2, 2, 2])  # blocks of each stage
    stem: Literal["small", "imagenet"] = "small"  # what precedes the first stage
    image_size: int = 32  # pixels of a side, for plans

    def __post_init__(self) -> None:
        if self.weights != "random":
            raise UserError(
                "this ResNet is built here, so that there are no weights to load.",
                where="model.weights",
                fix="model.weights=random, or model=classifier for weights of the hub",
            )
        if len(self.widths) != len(self.depths):
            raise UserError(
                f"{len(self.widths)} widths for {len(self.depths)} stages.", "model.widths"
            )

    def example_inputs(self, rows: int) -> dict[str, torch.Tensor]:
        """Return zero images float32 [rows, 3, image_size, image_size]."""
        return {"pixel_values": torch.zeros(rows, 3, self.image_size, self.image_size)}

    def _load_config(self) -> PreTrainedConfig:
        return ResNetConfig(
            embedding_size=self.widths[0],
            hidden_sizes=list(self.widths),
            depths=list(self.depths),
            layer_type="basic",
            architectures=["ResNetForImageClassification"],
        )

    def _from_config(self, config: PreTrainedConfig) -> PreTrainedModel:
        model = super()._from_config(config)
        if self.stem == "small":
            replace_stem(model, self.widths[0])
        return model


def replace_stem(model: PreTrainedModel, width: int) -> None:
    """Put a new 3 x 3 convolution of stride 1 in the place of the first one, and remove the pooling after it."""
    embedder = model.get_submodule("resnet.embedder")
    layer = embedder.get_submodule("embedder")
    old = layer.get_parameter("convolution.weight")
    new = nn.Conv2d(3, width, 3, padding=1, bias=False, device=old.device, dtype=old.dtype)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    layer.convolution, embedder.pooler = new, nn.Identity()
