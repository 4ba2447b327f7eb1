"""A tiny Llama on disk, loaded the way runs load models, and a few steps of training on it."""

from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from ftcli.config import build, configs_dir
from ftcli.models.causal_lm import CausalLM

IDS = torch.arange(3, 27).reshape(2, 12)
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128}
#: What a configuration leaves to the user.
GIVEN = {"trainable_tokens": {"token_indices": [3, 4]}, "adalora": {"total_step": 100}}


def write_llama(folder: Path, bias: bool = False) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, **HEADS, attention_bias=bias, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def load(folder: Path, quantization: str = "none", dtype: str = "float32"):
    return CausalLM(str(folder), quantization=quantization, dtype=dtype).load(device="cpu")


def names() -> list[str]:
    """Every method but those that only narrow another one (`defaults:` in place of a class)."""
    files = (configs_dir() / "method").glob("*.yaml")
    return sorted(file.stem for file in files if "_target_" in OmegaConf.load(file))


def method(name: str, **options):
    node = OmegaConf.load(configs_dir() / "method" / f"{name}.yaml")
    return build(OmegaConf.to_container(OmegaConf.merge(node, GIVEN.get(name, {}), options)))


@contextmanager
def half(on: bool = True):
    """bfloat16 activations, for one forward pass: a longer context would keep casts of old weights."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
        yield


@torch.no_grad()
def logits(model, bf16: bool = False) -> torch.Tensor:
    model.eval()
    with half(bf16):
        out = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return out[:, -IDS.shape[1] :]


def loss_of(model, bf16: bool = False) -> torch.Tensor:
    with half(bf16):
        mask = torch.ones_like(IDS)
        out = model(input_ids=IDS, attention_mask=mask, use_cache=False).logits
    out = out[:, -IDS.shape[1] :].float()
    return cross_entropy(out[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


def trainable(model) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def train(model, steps: int = 3, bf16: bool = False) -> None:
    """Steps of AdamW; leaves the last gradients in place."""
    model.train()
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, bf16).backward()
        optimizer.step()
