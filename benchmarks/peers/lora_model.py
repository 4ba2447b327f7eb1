"""The model of the programs on transformers: base weights as the task names them, LoRA on all linear layers."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load_base(task: dict[str, Any]) -> Any:
    """Return the base model on the device, in the task's precision, quantization and attention."""
    dtype = torch.bfloat16 if task["precision"] == "bf16" else torch.float32
    quantization = None
    if task["quantization"] == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(
        f"{task['folder']}/model", dtype=dtype, attn_implementation=task["attention"],
        device_map={"": DEVICE}, quantization_config=quantization,
    )  # fmt: skip


def describe_lora(task: dict[str, Any]) -> LoraConfig:
    """Return the configuration of the adapters."""
    rank = task["rank"]
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
