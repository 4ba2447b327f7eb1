"""TRL's SFTTrainer with packing; a step is one pack of about as many tokens as the rows of the other programs.

`task["liger"]` turns on Liger's kernels, `task["attention"]` names the attention.
"""

from __future__ import annotations

import tempfile
from typing import Any

from meter import Meter, pack_length, read_task, read_tokens

task = read_task()
meter = Meter(task)

import torch  # noqa: E402
from datasets import Dataset, disable_progress_bars  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer  # noqa: E402

disable_progress_bars()
folder, half = f"{task['folder']}/model", task["precision"] == "bf16"
dtype = torch.bfloat16 if half else torch.float32
device = "cuda" if torch.cuda.is_available() else "cpu"
rows = read_tokens(task)
quantization = None
if task["quantization"] == "nf4":
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip
model = AutoModelForCausalLM.from_pretrained(
    folder, dtype=dtype, attn_implementation=task["attention"], device_map={"": device},
    quantization_config=quantization,
)  # fmt: skip
seen = [0]  # tokens of the batches that were collated, one more than were trained on


class Recorder(TrainerCallback):
    """Gives the ends of steps to the meter; batches are collated one ahead."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        meter.end_step(seen[state.global_step])


settings = SFTConfig(
    output_dir=tempfile.mkdtemp(), max_steps=task["steps"], per_device_train_batch_size=1,
    packing=True, max_length=pack_length(rows, task["rows_a_step"]), learning_rate=task["lr"],
    lr_scheduler_type="constant", bf16=half, fp16=False, use_cpu=device == "cpu",
    gradient_checkpointing=False, use_liger_kernel=task["liger"], save_strategy="no",
    logging_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False, seed=0,
)  # fmt: skip
lora = LoraConfig(
    r=task["rank"], lora_alpha=2 * task["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
)
trainer = SFTTrainer(
    model=model, args=settings, train_dataset=Dataset.from_list(rows), peft_config=lora,
    processing_class=PreTrainedTokenizerFast.from_pretrained(folder), callbacks=[Recorder()],
)  # fmt: skip
collate = trainer.data_collator


def collate_and_count(examples: list[Any]) -> Any:
    """Collate, and count the tokens that are no padding."""
    batch = collate(examples)
    mask = batch.get("attention_mask")
    real = batch["input_ids"].numel() if mask is None else int((mask != 0).sum())
    seen.append(seen[-1] + real)
    return batch


trainer.data_collator = collate_and_count
trainer.train()
trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
meter.report(trained=trained)
