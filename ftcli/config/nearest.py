"""Did you mean: the known name nearest to one that was typed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: What other programs call a key -> what it is called here, in the group that has it (`data.path` where
#: several have it).
OTHER_NAMES = {
    "rank": "r", "lora_rank": "r", "lora_r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout",
    "lora_target_modules": "target_modules", "targets": "target_modules", "lora_target": "target_modules",
    "learning_rate": "lr", "wd": "weight_decay",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "max_epochs": "epochs",
    "steps": "max_steps", "per_device_train_batch_size": "batch_size", "micro_batch_size": "batch_size",
    "micro_batch": "batch_size", "grad_accum": "gradient_accumulation_steps",
    "accumulation": "gradient_accumulation_steps", "grad_clip": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm", "bf16": "precision", "fp16": "precision",
    "logging_steps": "log_every", "eval_steps": "eval_every", "save_steps": "save_every",
    "max_seq_length": "max_length", "max_seq_len": "max_length", "sequence_len": "max_length",
    "cutoff_len": "max_length", "dataset": "data.path", "model_name_or_path": "model.path",
    "base_model": "model.path", "load_in_4bit": "quantization", "quant": "quantization",
    "torch_dtype": "dtype", "attn_implementation": "attention", "warmup": "warmup_ratio",
    "train_on_inputs": "mask", "sample_packing": "packing", "out_dir": "run.dir", "output_dir": "run.dir",
    "lr_scheduler_type": "scheduler", "lr_scheduler": "scheduler", "optim": "optimizer", "adapter": "method",
}  # fmt: skip


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` known names that look like `word`, the nearest first."""
    names = sorted(set(known))
    lowered = {name.lower(): name for name in reversed(names)}
    found = difflib.get_close_matches(word.lower(), lowered, count, 0.6)
    return [lowered[name] for name in found]


def nearest_key(word: str, known: Iterable[str]) -> str | None:
    """The key most likely meant, names that other programs use included."""
    names = set(known)
    candidates = {name: name for name in names}
    for other, own in OTHER_NAMES.items():
        if (last := own.rpartition(".")[2]) in names - {other}:
            candidates[other] = last
    found = nearest(word, candidates, 1)
    return candidates[found[0]] if found else None
