"""Tiny models on disk, loaded the way runs load models, and a few steps of training on them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ftcli.config import build
from ftcli.methods.peft import Peft
from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.quantization import build_bitsandbytes_config, disable_cpu_inference_path

from .options import capabilities, file_of, method_class, node, options

IDS = torch.arange(3, 27).reshape(2, 12)
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128}
#: Classes that load what no causal language model is -> PEFT's name of the task.
OTHERS: dict[str, tuple[Any, str | None]] = {
    "bert": (AutoModelForMaskedLM, None),
    "t5": (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
}


def write_llama(folder: Path, bias: bool = False) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, **HEADS, attention_bias=bias, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_gpt2(folder: Path, **sizes: int) -> Path:
    """Conv1D layers, a fused query, key and value, tied embeddings, biases."""
    torch.manual_seed(0)
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    shape = {"n_embd": 128, "n_inner": 192, "n_layer": 2, "n_head": 4, "vocab_size": 128}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = GPT2Config(**(shape | sizes), **drop, **ends, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def write_bert(folder: Path) -> Path:
    torch.manual_seed(0)
    drop = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    config = BertConfig(**SIZES, num_attention_heads=4, vocab_size=128, **drop)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def write_t5(folder: Path) -> Path:
    torch.manual_seed(0)
    config = T5Config(
        d_model=128, d_kv=32, d_ff=192, num_layers=2, num_heads=4, vocab_size=128, dropout_rate=0.0,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


WRITERS = {"llama": write_llama, "gpt2": write_gpt2, "bert": write_bert, "t5": write_t5}


def load(folder: Path, quantization: str = "none", dtype: str = "float32", kind: str = "llama"):
    """The model in a folder, as a run loads it; kinds that runs do not know, as like it as can be."""
    if kind not in OTHERS:
        return CausalLMSource(str(folder), quantization=quantization, dtype=dtype).load(
            device="cpu"
        )
    model = OTHERS[kind][0].from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        quantization_config=build_bitsandbytes_config(quantization, True, getattr(torch, dtype)),
        device_map={"": "cpu"},
    )
    disable_cpu_inference_path(model)
    return model.eval()


def names() -> list[str]:
    """Every method but those that only narrow another one (`defaults:` in place of a class)."""
    return [name for name in options("method") if "_target_" in node("method", name)]


def method(name: str, kind: str = "llama", **choices):
    """A method from its file, with what that leaves to the user (`capabilities.given`)."""
    option = OmegaConf.load(file_of("method", name))
    of_kind = {"task_type": OTHERS[kind][1]} if kind in OTHERS else {}
    if not issubclass(method_class(name), Peft):
        of_kind = {}
    required = capabilities(name).get("given") or {}
    return build(OmegaConf.to_container(OmegaConf.merge(option, required, of_kind, choices)))


@contextmanager
def half(on: bool = True):
    """bfloat16 activations, for one forward pass: a longer context would keep casts of old weights."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
        yield


def _forward(model, ids: torch.Tensor, bf16: bool) -> torch.Tensor:
    """Logits of the tokens given, what a soft prompt puts before them left out."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    if model.config.model_type == "bert":
        del inputs["use_cache"]
    with half(bf16):
        return model(**inputs).logits[:, -ids.shape[1] :]


@torch.no_grad()
def logits(model, bf16: bool = False) -> torch.Tensor:
    model.eval()
    return _forward(model, IDS, bf16)


def loss_of(model, bf16: bool = False, rows: slice = slice(None)) -> torch.Tensor:
    """What these rows add to the mean loss over all tokens, each predicted from where the last was."""
    out, ids = _forward(model, IDS[rows], bf16).float(), IDS[rows]
    total = cross_entropy(out[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    return total / IDS[:, 1:].numel()


def trainable(model) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def train(model, steps: int = 3, bf16: bool = False, optimizer: str = "adamw") -> None:
    """Steps of an optimizer option; leaves the last gradients in place."""
    model.train()
    node = OmegaConf.load(file_of("optimizer", optimizer))
    built = build(OmegaConf.to_container(OmegaConf.merge(node, {"lr": 1e-2})))
    stepper = built.build(trainable(model).items(), "cpu")
    for _ in range(steps):
        stepper.zero_grad()
        loss_of(model, bf16).backward()
        stepper.step()
