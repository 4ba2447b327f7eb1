"""TRL's SFTTrainer with packing; a step is one pack of about as many tokens as the rows of the other programs.

`task["liger"]` turns on Liger's kernels, `task["attention"]` names the attention.
"""

from __future__ import annotations

from typing import Any

from meter import Meter, pack_length, read_task, read_tokens

task = read_task()
meter = Meter(task)

from datasets import Dataset, disable_progress_bars  # noqa: E402
from lora_model import DEVICE, describe_lora, load_base  # noqa: E402
from transformers import PreTrainedTokenizerFast, TrainerCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

disable_progress_bars()
rows = read_tokens(task)
seen = [0]  # tokens of the batches that were collated, one more than were trained on


class Recorder(TrainerCallback):
    """Gives the ends of steps to the meter; batches are collated one ahead."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        meter.end_step(seen[state.global_step])


settings = SFTConfig(
    output_dir=f"{task['folder']}/trl", max_steps=task["steps"], per_device_train_batch_size=1,
    packing=True, max_length=pack_length(rows, task["rows_a_step"]), learning_rate=task["lr"],
    lr_scheduler_type="constant", bf16=task["precision"] == "bf16", use_cpu=DEVICE == "cpu",
    gradient_checkpointing=False, use_liger_kernel=task["liger"], save_strategy="no",
    logging_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False, seed=0,
)  # fmt: skip
trainer = SFTTrainer(
    model=load_base(task), args=settings, train_dataset=Dataset.from_list(rows),
    peft_config=describe_lora(task), callbacks=[Recorder()],
    processing_class=PreTrainedTokenizerFast.from_pretrained(f"{task['folder']}/model"),
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
